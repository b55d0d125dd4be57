r"""Averages of the weights themselves, in which the noise of single steps cancels.

The average of a parameter, :math:`a`, remembers a tenth of the run so far:

.. math:: a \leftarrow a + \frac{w - a}{1 + t / 10}

after its step number :math:`t`, counted from 0. So it needs to know neither the length
of the run nor a rate.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from l2o.schedules import average_share

from .distributed import is_sharded
from .names import parameters_of

AVERAGE = "average"
"""Key of a parameter's averaged weights in its state, in float32 or wider."""
COUNT = "average_count"
"""Key of how many steps they hold."""
KEYS = (AVERAGE, COUNT)


def advance_average(
    param: Tensor, item: MutableMapping[str, Any], is_sound: Tensor | None
) -> None:
    """Update a parameter's average after a step; start it if there is none.

    Args:
        param: the parameter, whole or sharded.
        item: its state; written.
        is_sound: whether the step was taken; None says yes.
    """
    if AVERAGE not in item:
        wide = torch.promote_types(param.dtype, torch.float32)
        item[AVERAGE] = param.detach().to(wide, copy=True)
        item[COUNT] = torch.zeros((), dtype=torch.int64, device=param.device)
    average, weights = _local(item[AVERAGE]), _local(param.detach())
    share = average_share(item[COUNT].to(average.dtype))
    share = share if is_sound is None else share * is_sound
    average.lerp_(weights.to(average.dtype), share)
    item[COUNT] += 1 if is_sound is None else is_sound.to(torch.int64)


@contextmanager
def swapped_in(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Temporarily give parameters other values; the old ones return bit for bit.

    Args:
        pairs: parameter and value.
    """
    kept = []
    try:
        for param, value in pairs:
            own = _local(param.detach())
            kept.append((own, own.clone()))
            own.copy_(_local(value))
        yield
    finally:
        for own, old in kept:
            own.copy_(old)


def average_template(param: Tensor) -> dict[str, Tensor]:
    """Return tensors like a parameter's average and its count, without values."""
    wide = torch.promote_types(param.dtype, torch.float32)
    count = torch.empty((), dtype=torch.int64, device=param.device)
    return {AVERAGE: torch.empty_like(param, dtype=wide), COUNT: count}


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


class AveragingOptimizer(Optimizer):
    """An optimizer whose states may hold averages of the weights.

    `NeuralGraphOpt` advances the averages; here is what a user does with them.
    """

    _has_average: bool
    """Whether it was built to keep averages."""
    _is_averaged: bool
    """Whether the parameters hold their averages now."""

    @property
    def keeps_average(self) -> bool:
        """Whether the optimizer was built with `average=True`."""
        return self._has_average

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Temporarily load the averages, to evaluate or to save them.

        Parameters that never moved keep their value. Running statistics of batch norm
        belong to the weights that the steps visit: let
        `torch.optim.swa_utils.update_bn` measure them again, within the context or
        on a copy of the model. A checkpoint to go on from is saved outside.

        Raises:
            ValueError: if the optimizer was built without `average=True`, or within
                another `averaged`.

        Example:
            >>> import l2o
            >>> model = torch.nn.Linear(3, 2)
            >>> optimizer = l2o.NeuralGraphOpt(model.parameters(), average=True)
            >>> model(torch.ones(1, 3)).sum().backward()
            >>> optimizer.step()
            >>> with optimizer.averaged():
            ...     outputs = model(torch.ones(1, 3))

        Reference:
            Polyak and Juditsky, 1992, "Acceleration of stochastic approximation by
            averaging". The memory in proportion to the run so far is ours.
        """
        if self._is_averaged:
            raise ValueError(
                "NeuralGraphOpt.averaged needs the weights that the last step left; "
                "got a call within another one. Leave that first."
            )
        pairs = self._averages("averaged")
        self._is_averaged = True
        try:
            with swapped_in(pairs):
                yield
        finally:
            self._is_averaged = False

    def use_average(self) -> None:
        """Load the averages permanently; call it once, at the end.

        Raises:
            ValueError: as for `averaged`.
        """
        for param, value in self._averages("use_average"):
            with torch.no_grad():
                param.copy_(value)

    def _averages(self, caller: str) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters that have an average, each with it."""
        params = parameters_of(self.param_groups)
        states = ((param, self.state.get(param, {})) for param in params)
        found = [(param, item[AVERAGE]) for param, item in states if AVERAGE in item]
        if not (found or self._has_average):
            raise ValueError(
                f"NeuralGraphOpt.{caller} needs averages; got an optimizer that keeps "
                "none. Build it with average=True."
            )
        return found
