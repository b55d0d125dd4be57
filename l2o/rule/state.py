"""The memory of a rule: exponential averages of the gradients.

The state of one parameter is `{"step", "momenta", "second_moment"}`: averages of the
gradient at some decays and of its square at one, without bias correction, in the
parameter's shape. So a checkpoint depends on neither the rule's features nor the graph.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from l2o.config import frozen_config
from l2o.graph import NeuralGraph
from l2o.nets.fast_ops import in_plain_eager

Tensors: TypeAlias = Mapping[str, Tensor]
"""A tensor per parameter, by the parameter's name."""
ParameterState: TypeAlias = dict[str, Tensor]
State: TypeAlias = dict[str, ParameterState]


class Reading(NamedTuple):
    """What a rule reads in one step."""

    graph: NeuralGraph
    params: Tensors
    """Value of every parameter of the graph."""
    grads: Tensors
    """Its gradient; zeros where there is none."""
    state: State
    """Its state, the gradient included."""


ADAM_DECAY = 0.9
"""Decay of Adam's first moment."""
ADAM_EPS = 1e-8
"""Added to the root of the second moment, as Adam does."""
TINY = 1e-30
"""Inside roots of mean squares, so that zeros have a finite derivative."""


@frozen_config
class Averages:
    """Which averages a rule keeps, and how they advance.

    A rule that names its averages in `rule.averages` has no other state. The optimizer
    then advances them in place and can keep them in bfloat16.

    Example:
        >>> averages = Averages(momentum_decays=(0.9,))
        >>> state = averages.init_state({"w": torch.zeros(2)})
        >>> state = averages.advance(state, {"w": torch.ones(2)})
        >>> [round(value, 3) for value in state["w"]["momenta"][0].tolist()]
        [0.1, 0.1]
    """

    momentum_decays: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999, 0.9999)
    """Decays of the averages of the gradient. The default is that of Kofinas et al.,
    2024, section 4.3."""
    second_moment_decay: float = 0.999
    """Decay of the average of squared gradients; the default is Adam's."""

    def __post_init__(self) -> None:
        for decay in (*self.momentum_decays, self.second_moment_decay):
            if not 0 <= decay < 1:
                raise ValueError(
                    f"Averages decays must lie in [0, 1); got {decay}. Choose for "
                    "example 0.9, which remembers about ten gradients."
                )

    @property
    def num_momenta(self) -> int:
        """Number of averages of the gradient."""
        return len(self.momentum_decays)

    @property
    def adam_momentum(self) -> int:
        """Index of Adam's first moment among the momenta.

        Raises:
            ValueError: if no momentum has Adam's decay.
        """
        if ADAM_DECAY not in self.momentum_decays:
            raise ValueError(
                f"Averages need a momentum of decay {ADAM_DECAY} for Adam's direction; "
                f"got momentum_decays={self.momentum_decays}. Add it."
            )
        return self.momentum_decays.index(ADAM_DECAY)

    def init_state(self, params: Tensors) -> State:
        """Return zero averages.

        Args:
            params: name to parameter; shape, dtype and device matter.
        """
        return {name: self._zeros(param) for name, param in params.items()}

    def advance(self, state: State, grads: Tensors) -> State:
        """Return the averages after one more gradient. Pure.

        Args:
            state: name to averages.
            grads: name to gradient; averages of other parameters stay as they are.
        """
        return {
            name: self._advanced(item, grads[name]) if name in grads else item
            for name, item in state.items()
        }

    def ages(self, steps: Tensor, num_ones: int = 0) -> Tensor:
        """Return by how much averages fall short because they started at zero.

        Args:
            steps: `[*tensors]`, numbers of gradients seen.
            num_ones: how many rows of ones come first, for what is no average.

        Returns:
            `[ones + momentum + 1, *tensors]`: `1 - decay**step` of the momenta, then of
            the second moment.
        """
        # A parameter that never had a gradient is at step 0, where 1 - decay**0 is 0.
        decays = (*[0.0] * num_ones, *self.momentum_decays, self.second_moment_decay)
        decays = column(decays, steps[None])
        return 1 - decays ** steps.clamp_min(1)

    def keeps(self, dtype: torch.dtype) -> list[float]:
        """Return the share that stays of each momentum, then of the second moment.

        Args:
            dtype: of the gradients; decays of momenta are rounded to it.
        """
        decays = torch.tensor(self.momentum_decays, dtype=dtype, device="cpu")
        return [*decays.tolist(), self.second_moment_decay]

    def weights(self, dtype: torch.dtype) -> list[float]:
        """Return the weight of a new gradient in each momentum, then of its square."""
        decays = torch.tensor(self.momentum_decays, dtype=dtype, device="cpu")
        return [*(1 - decays).tolist(), 1 - self.second_moment_decay]

    def _zeros(self, param: Tensor) -> ParameterState:
        like = {"dtype": param.dtype, "device": param.device}
        return {
            "step": torch.zeros((), dtype=torch.int64, device=param.device),
            "momenta": torch.zeros(self.num_momenta, *param.shape, **like),
            "second_moment": torch.zeros(param.shape, **like),
        }

    def _advanced(self, item: ParameterState, grad: Tensor) -> ParameterState:
        *keeps, keep = self.keeps(grad.dtype)
        *weights, weight = self.weights(grad.dtype)
        rows = zip(item["momenta"].unbind(), keeps, weights, strict=True)
        momenta = [torch.add(own * old, grad, alpha=new) for old, own, new in rows]
        second = keep * item["second_moment"]
        return {
            "step": item["step"] + 1,
            "momenta": torch.stack(momenta) if momenta else item["momenta"],
            "second_moment": torch.addcmul(second, grad, grad, value=weight),
        }


def averages_as(state: State, dtype: torch.dtype | None) -> State:
    """Return a state with its averages in another type; None means as they are."""
    if dtype is None:
        return state
    return {
        name: {key: v if key == "step" else v.to(dtype) for key, v in item.items()}
        for name, item in state.items()
    }


_MOST_CONSTANTS = 256
"""More than so many are forgotten."""
_constants: dict[object, Tensor] = {}


def constant(
    values: Sequence[int | float], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return `values` as a tensor on `like`'s device, without waiting.

    In plain eager mode it is made once; callers must not write to it.

    Args:
        values: the entries.
        like: for the device.
        dtype: of the result; None is that of `like`.
    """
    dtype = like.dtype if dtype is None else dtype
    key = tuple(values), dtype, like.device
    is_plain = in_plain_eager() and type(like) is Tensor
    if is_plain and key in _constants:
        return _constants[key]
    host = torch.tensor(values, dtype=dtype, device="cpu")
    found = host.to(like.device, non_blocking=True)
    if is_plain:
        if len(_constants) >= _MOST_CONSTANTS:
            _constants.clear()
        _constants[key] = found
    return found


def column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return `values` along a first axis that broadcasts against `like`."""
    return constant(values, like).reshape(-1, *[1] * (like.ndim - 1))


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or wider."""
    if tensor.dtype == torch.float32:  # a call less for each of many small tensors
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
