"""A task: a model family, its data and a loss. Plain PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from optimizees.data.images import ImageData


class Batch(NamedTuple):
    """What one loss is computed on."""

    inputs: Tensor
    """Images, [B, C, H, W]."""
    targets: Tensor
    """Classes, [B], int64."""


class Evaluation(NamedTuple):
    """How well a set of parameters does on some data."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Share of images whose largest logit is their class, in [0, 1]."""


class BatchSampler:
    """Endless batches from shuffled epochs, without replacement, exactly resumable.

    Every epoch visits the data in a new order and drops the last incomplete batch.

    Args:
        data: where to draw from.
        batch_size: images per batch, at most the size of the data.
        seed: decides every order; the global generator is never used.

    Raises:
        ValueError: unless 1 <= batch_size <= len(data).
    """

    def __init__(self, data: ImageData, batch_size: int, seed: int) -> None:
        _check_batch_size("BatchSampler", batch_size, data)
        self.data = data
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._start_epoch()

    def next(self) -> Batch:
        """Return the next batch; its tensors are copies, on the data's device."""
        if self._position + self.batch_size > len(self.data):
            self._start_epoch()
        stop = self._position + self.batch_size
        indices = self._order[self._position : stop]
        self._position = stop
        return Batch(self.data.images[indices], self.data.labels[indices])

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what a new sampler needs to continue exactly here.

        Returns:
            Tensors on the CPU and integers only; copies, so they stay as they are.
        """
        return {
            "generator": self._generator.get_state(),
            "order": self._order.cpu().clone(),
            "position": self._position,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Continue where another sampler over the same data stopped.

        Args:
            state: what that sampler's `state_dict` returned.

        Raises:
            ValueError: if that sampler had other data or another batch size.
        """
        generator, order = state["generator"], state["order"]
        position, batch_size = state["position"], state["batch_size"]
        if len(torch.as_tensor(order)) != len(self.data):
            raise ValueError(
                "BatchSampler.load_state_dict needs the state of a sampler over "
                f"{len(self.data)} images; got {len(torch.as_tensor(order))}. "
                "Build this sampler with the data of the interrupted run."
            )
        if batch_size != self.batch_size:
            raise ValueError(
                "BatchSampler.load_state_dict needs the state of a sampler with "
                f"batch_size={self.batch_size}; got {batch_size}. "
                "Build this sampler with the batch size of the interrupted run."
            )
        self._generator.set_state(torch.as_tensor(generator).cpu())
        self._order = torch.as_tensor(order).to(self.data.labels.device, copy=True)
        self._position = int(position)

    def _start_epoch(self) -> None:
        """Draw a new order and go to its beginning."""
        order = torch.randperm(
            len(self.data), generator=self._generator, device="cpu", dtype=torch.int64
        )
        self._order = order.to(self.data.labels.device)
        self._position = 0


@dataclass(frozen=True, eq=False)
class Task:
    """A model family to train, the data to train it on, and cross-entropy.

    Nothing here knows about learned optimizers: SGD can train it alone. Parameters
    are passed as a dictionary, so that a caller may differentiate through them.

    Raises:
        ValueError: unless 1 <= batch_size <= len(data), or if the network has running
            statistics, which every forward pass would change.

    Example:
        >>> from optimizees import build_task, load_fashion_mnist
        >>> data = load_fashion_mnist("validation", source="embedded")
        >>> task = build_task("fashion-cnn", data, batch_size=8)
        >>> loss = task.loss(task.init_params(seed=0), task.batches(seed=0).next())
        >>> loss.shape
        torch.Size([])
    """

    name: str
    """A short name for logs and results."""
    build_model: Callable[[], nn.Module]
    """Builds one network of the family, initialised from the global generator."""
    data: ImageData
    """What to train on."""
    batch_size: int
    """Images per batch."""
    init_scale: float = 1.0
    """Factor of the initial values of every parameter of two or more axes."""
    unit_spread: float = 1.0
    """Each parameter is kept in a unit of its own, drawn log-uniformly between the
    inverse of this number and this number: the function stays, but gradients and the
    sizes of good steps change. 1 keeps every unit at 1."""
    unit_seed: int = 0
    """Decides the units."""

    def __post_init__(self) -> None:
        _check_batch_size("Task", self.batch_size, self.data)
        if not (self.init_scale > 0 and self.unit_spread >= 1):
            raise ValueError(
                "Task needs init_scale above zero and unit_spread of at least 1; got "
                f"init_scale={self.init_scale}, unit_spread={self.unit_spread}. Leave "
                "them out to train the network as it is."
            )
        _ = self._names  # built here, since vmap forbids drawing the initial values

    @property
    def device(self) -> torch.device:
        """Where the data lies, and with it every parameter."""
        return self.data.images.device

    def init_model(self, seed: int) -> nn.Module:
        """Build one network with PyTorch's default initialisation.

        Args:
            seed: decides the initial values, on any device; the global generators
                stay as they were.

        Returns:
            A fresh network on the data's device, in its natural units.
        """
        # torch.manual_seed would also seed the GPUs, which fork_rng leaves out here.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            model = self.build_model()
        if self.init_scale != 1:
            with torch.no_grad():
                for param in model.parameters():
                    if param.ndim > 1:
                        param.mul_(self.init_scale)
        return model.to(self.device)

    def init_params(self, seed: int) -> dict[str, Tensor]:
        """Return what `init_model` has for this seed, by name, in the task's units.

        Args:
            seed: as for `init_model`.

        Returns:
            Fresh tensors on the data's device that do not require gradients.
        """
        model = self.init_model(seed)
        params = {name: param.detach() for name, param in model.named_parameters()}
        if self.unit_spread == 1:
            return params
        return {name: param / self._units[name] for name, param in params.items()}

    def batches(self, seed: int) -> BatchSampler:
        """Return an endless sampler of training batches."""
        return BatchSampler(self.data, self.batch_size, seed)

    def loss(self, params: dict[str, Tensor], batch: Batch) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of one batch, in nats.

        Inputs are cast to the type of the parameters, so float64 parameters give a
        float64 loss.

        Args:
            params: every parameter of the family, by name.
            batch: images and classes on the parameters' device.

        Returns:
            A scalar; autograd, `torch.func.grad` and `torch.func.vmap` pass.

        Raises:
            ValueError: if the names are not those of the family.
        """
        return functional.cross_entropy(self._logits(params, batch), batch.targets)

    def loss_and_grads(
        self, params: dict[str, Tensor], batch: Batch
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the loss of one batch and its gradient, both without a graph.

        Args:
            params: every parameter of the family, by name; left unchanged.
            batch: images and classes on the parameters' device.

        Returns:
            The detached loss, and one gradient per parameter; zeros for a parameter
            that the loss does not depend on.

        Raises:
            ValueError: if the names are not those of the family.
        """
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            loss = self.loss(leaves, batch)
            grads = torch.autograd.grad(
                loss, list(leaves.values()), materialize_grads=True
            )
        return loss.detach(), dict(zip(leaves, grads, strict=True))

    @torch.no_grad()
    def evaluate(
        self, params: dict[str, Tensor], data: ImageData, batch_size: int = 1000
    ) -> Evaluation:
        """Return the loss and the accuracy over all of `data`.

        Args:
            params: every parameter of the family, by name.
            data: any split of the same shape as the training data, on any device.
            batch_size: images at once; only memory and speed depend on it.

        Returns:
            Plain numbers, averaged over the images.

        Raises:
            ValueError: if batch_size < 1 or if the names are not those of the family.
        """
        if batch_size < 1:
            raise ValueError(
                f"Task.evaluate needs batch_size >= 1; got {batch_size}. Leave it out, "
                "or pass as many images as fit into memory."
            )
        losses: list[Tensor] = []
        correct: list[Tensor] = []
        self._template.eval()
        try:
            for start in range(0, len(data), batch_size):
                stop = start + batch_size
                images = data.images[start:stop].to(self.device)
                labels = data.labels[start:stop].to(self.device)
                logits = self._logits(params, Batch(images, labels))
                losses.append(functional.cross_entropy(logits, labels, reduction="sum"))
                correct.append((logits.argmax(dim=1) == labels).sum())
        finally:
            self._template.train()
        # Added up in float64 on the CPU, since some devices have none.
        loss = torch.stack(losses).cpu().double().sum().item()
        return Evaluation(
            loss / len(data), torch.stack(correct).sum().item() / len(data)
        )

    @cached_property
    def _template(self) -> nn.Module:
        """The network whose parameters are replaced in every call."""
        model = self.init_model(seed=0).requires_grad_(requires_grad=False)
        for name, module in model.named_modules():
            if getattr(module, "running_mean", None) is not None:
                raise ValueError(
                    "Task needs a network that no forward pass changes; got running "
                    f"statistics in {name} ({type(module).__name__}). "
                    "Build it with track_running_stats=False or use group norm."
                )
        return model

    @cached_property
    def _names(self) -> set[str]:
        """The names of the family's parameters."""
        return {name for name, _ in self._template.named_parameters()}

    @cached_property
    def _units(self) -> dict[str, float]:
        """The unit of each parameter: its natural value over the one that is kept."""
        generator = torch.Generator().manual_seed(self.unit_seed)
        names = [name for name, _ in self._template.named_parameters()]
        places = 2 * torch.rand(len(names), generator=generator) - 1
        units = [self.unit_spread**place for place in places.tolist()]
        return dict(zip(names, units, strict=True))

    def _logits(
        self, params: dict[str, Tensor], batch: Batch
    ) -> Float[Tensor, "B classes"]:
        """Run the network with `params`, in their type."""
        if params.keys() != self._names:
            different = ", ".join(sorted(params.keys() ^ self._names))
            raise ValueError(
                "Task needs every parameter of its family and no other; missing or "
                f"unknown: {different}. Pass params as Task.init_params names them."
            )
        if self.unit_spread != 1:
            params = {name: item * self._units[name] for name, item in params.items()}
        dtype = next(iter(params.values())).dtype
        inputs = batch.inputs.to(dtype)
        return torch.func.functional_call(self._template, params, (inputs,))


def _check_batch_size(who: str, batch_size: int, data: ImageData) -> None:
    """Raise unless a batch of this size can be drawn from `data`."""
    if not 1 <= batch_size <= len(data):
        raise ValueError(
            f"{who} needs 1 <= batch_size <= {len(data)}, the number of images; "
            f"got batch_size={batch_size}. Pass a smaller batch or more data."
        )
