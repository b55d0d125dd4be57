"""A task as pure functions of parameters, for meta-training."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .batches import Batch, Batches, arguments
from .task import Evaluation, Task

Tensors = dict[str, Tensor]


_UNSEEN = 256
"""Most examples of a batch that a run is judged by."""


class LossAndGrads(NamedTuple):
    """Results of one pass over a batch, without autograd's graph."""

    loss: Float[Tensor, ""]
    """Mean loss of the batch."""
    grads: Tensors
    """Gradient of each parameter; zeros where the loss does not depend on it."""
    buffers: Tensors
    """Buffers after the pass, for example the running statistics of batch norm."""


class FunctionalTask:
    """A task whose parameters and buffers are passed as dictionaries.

    A caller may differentiate through the parameters and may `vmap` over them. Buffers
    are part of what is passed: no call changes its arguments, and the buffers after a
    pass are returned. So batch norm with running statistics trains exactly as it does
    in a loop over the module.

    Args:
        task: what is trained.
        unit_spread: each parameter is kept in a unit of its own, drawn log-uniformly
            between the inverse of this number and this number. The function stays, but
            gradients and the sizes of good steps change. 1 keeps every unit at 1.
        unit_seed: decides the units.

    Raises:
        ValueError: unless unit_spread is finite and at least 1.

    Example:
        >>> from optimizees import FunctionalTask, load_task
        >>> task = load_task("fashion-cnn", batch_size=8, data="embedded")
        >>> functional = FunctionalTask(task)
        >>> params = functional.init_params(seed=0)
        >>> functional.loss(params, task.batches(0).next()).shape
        torch.Size([])
    """

    def __init__(
        self, task: Task, *, unit_spread: float = 1.0, unit_seed: int = 0
    ) -> None:
        if not 1 <= unit_spread < float("inf"):
            raise ValueError(
                "FunctionalTask needs a finite unit_spread of at least 1; got "
                f"unit_spread={unit_spread}. Leave it out to train the network as it "
                "is."
            )
        self.task = task
        self.unit_spread = unit_spread
        self.unit_seed = unit_seed
        # Built here, since vmap forbids drawing the initial values.
        self._template = task.init_model(seed=0).requires_grad_(requires_grad=False)
        self._names = {name for name, _ in self._template.named_parameters()}

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def init_params(self, seed: int) -> Tensors:
        """Return the initial parameters of a seed by name, in the task's units.

        Returns:
            Fresh tensors on the task's device that do not require gradients.
        """
        model = self.task.init_model(seed)
        params = {name: param.detach() for name, param in model.named_parameters()}
        if self.unit_spread == 1:
            return params
        return {name: param / self._units[name] for name, param in params.items()}

    def init_buffers(self, seed: int) -> Tensors:
        """Return the initial buffers of a seed by name; fresh tensors."""
        return dict(self.task.init_model(seed).named_buffers())

    def batches(self, seed: int) -> Batches:
        """Return the endless training batches of a seed."""
        return self.task.batches(seed)

    def unseen_batches(self, seed: int, count: int) -> list[Batch]:
        """Return batches that training does not see, to judge a run by.

        Args:
            seed: decides which.
            count: how many, at most: fewer where the validation split has fewer.

        Returns:
            Batches of the validation split, of at most 256 examples where a batch is a
            tensor; where the task has no such split, training batches of another seed,
            which do not tell when a network learns them by heart.
        """
        held_out: Sequence[Batch] = self.task.held_out.get("validation", ())
        if not held_out:
            sampler = self.batches(seed + 1)
            return [sampler.next() for _ in range(count)]
        generator = torch.Generator().manual_seed(seed)
        places = torch.randperm(len(held_out), generator=generator)[:count]
        return [_piece(held_out[int(place)], generator) for place in places]

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean loss of one batch, in training mode.

        Floating-point inputs and targets are cast to the type of the parameters, so
        float64 parameters give a float64 loss.

        Args:
            params: every parameter of the network, by name.
            batch: on the parameters' device.
            buffers: every buffer, by name; None for the initial ones.

        Returns:
            A scalar; autograd, `torch.func.grad` and `torch.func.vmap` pass.

        Raises:
            ValueError: if the names are not those of the network.
        """
        return self.loss_and_buffers(params, batch, buffers)[0]

    def loss_and_buffers(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, ""], Tensors]:
        """Return what `loss` does, and the buffers after the pass."""
        if params.keys() != self._names:
            different = ", ".join(sorted(params.keys() ^ self._names))
            raise ValueError(
                "FunctionalTask needs every parameter of its network and no other; "
                f"missing or unknown: {different}. Pass params as "
                "FunctionalTask.init_params names them."
            )
        dtype = next(iter(params.values())).dtype
        if self.unit_spread != 1:
            params = {name: item * self._units[name] for name, item in params.items()}
        if buffers is None:
            buffers = dict(self._template.named_buffers())
        after = {name: item.clone() for name, item in buffers.items()}
        inputs, targets = tree_map(
            lambda item: item.to(dtype) if item.is_floating_point() else item,
            (arguments(batch), batch.targets),
        )
        outputs = torch.func.functional_call(
            self._template, {**params, **after}, inputs
        )
        return self.task.criterion(outputs, targets), after

    def loss_and_grads(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> LossAndGrads:
        """Return loss, gradients and buffers of one batch, all without a graph.

        Args:
            params: every parameter of the network, by name; left unchanged.
            batch: on the parameters' device.
            buffers: every buffer, by name; None for the initial ones.

        Raises:
            ValueError: if the names are not those of the network.
        """
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            loss, after = self.loss_and_buffers(leaves, batch, buffers)
            grads = torch.autograd.grad(
                loss, list(leaves.values()), materialize_grads=True
            )
        return LossAndGrads(
            loss.detach(),
            dict(zip(leaves, grads, strict=True)),
            {name: item.detach() for name, item in after.items()},
        )

    def module(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        """Return a network with copies of these parameters and buffers."""
        model = self.task.init_model(seed=0)
        with torch.no_grad():
            for name, param in model.named_parameters():
                unit = 1.0 if self.unit_spread == 1 else self._units[name]
                param.copy_(params[name] if unit == 1 else params[name] * unit)
            for name, buffer in model.named_buffers():
                if buffers is not None:
                    buffer.copy_(buffers[name])
        return model

    def evaluate(
        self,
        params: Mapping[str, Tensor],
        split: str,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        """Return loss and metric over the held-out data of a split.

        Args:
            params: every parameter of the network, by name.
            split: a key of the task's `held_out`.
            buffers: every buffer, by name; None for the initial ones.

        Raises:
            ValueError: if the task has no such split.
        """
        return self.task.evaluate(self.module(params, buffers), split)

    @cached_property
    def _units(self) -> dict[str, float]:
        """The unit of each parameter: its natural value over the one that is kept."""
        generator = torch.Generator().manual_seed(self.unit_seed)
        names = [name for name, _ in self._template.named_parameters()]
        places = 2 * torch.rand(len(names), generator=generator) - 1
        units = [self.unit_spread**place for place in places.tolist()]
        return dict(zip(names, units, strict=True))


def _piece(batch: Batch, generator: torch.Generator) -> Batch:
    """Return some neighbouring examples of a batch; all where it cannot be cut."""
    inputs, targets = batch.inputs, batch.targets
    if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
        return batch
    last = max(0, len(inputs) - _UNSEEN)
    first = int(torch.randint(last + 1, (1,), generator=generator))
    return Batch(*(item[first : first + _UNSEEN] for item in (inputs, targets)))
