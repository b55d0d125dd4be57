"""Networks of a Small CNN Zoo that are trained together, in one grouped convolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from optimizees.data.images import ImageData
from optimizees.zoo.small_cnn_zoo import LAYERS, WIDTH, to_rows

OptimizerName: TypeAlias = Literal["adam", "rmsprop", "sgd"]
ActivationName: TypeAlias = Literal["relu", "tanh"]
Params: TypeAlias = list[Tensor]

_EVALUATION_BATCH = 250
_EPSILON = 1e-7
"""Keras's guard against division by zero."""


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """What the networks of a zoo differ in, and how long they train.

    The published zoo trains 30,000 networks for 86 epochs of the whole training set.
    The defaults fit a quarter of an hour of one CPU core for 1,600 networks; their
    ranges are narrower at the end where a short training would learn nothing at all.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    checkpoints: tuple[int, ...] = (0, 1, 3, 6, 12, 18)
    """Epochs after which every network is written and tested, rising."""
    learning_rate: tuple[float, float] = (5e-4, 5e-2)
    """Smallest and largest; log-uniform."""
    sgd_factor: float = 20.0
    """Factor of the rate where the optimizer is SGD, which learns nothing in so few
    epochs otherwise; 1 in the published zoo."""
    init_std: tuple[float, float] = (1e-2, 5e-1)
    """Smallest and largest standard deviation of the initial kernels; log-uniform."""
    l2: tuple[float, float] = (1e-8, 1e-2)
    """Smallest and largest factor of the kernels' squares in the loss; log-uniform."""
    dropout: tuple[float, float] = (0.0, 0.7)
    """Smallest and largest share of channels that a layer drops; uniform."""
    batch_size: int = 64
    """Images per batch."""
    at_once: int = 32
    """Networks that are trained together."""
    seed: int = 0
    """Decides everything."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.at_once) < 1 or self.seed < 0:
            raise ValueError(
                "ZooConfig needs batch_size and at_once of at least 1 and a seed of at "
                f"least 0; got {self.batch_size}, {self.at_once} and {self.seed}. "
                "Raise them."
            )
        if not 0 < self.sgd_factor < math.inf:
            raise ValueError(
                "ZooConfig sgd_factor must be above zero and finite; got "
                f"sgd_factor={self.sgd_factor}. Choose 1 for none."
            )
        rising = sorted(set(self.checkpoints))
        if not rising or list(self.checkpoints) != rising or rising[0] < 0:
            raise ValueError(
                "ZooConfig checkpoints must be epochs in rising order; got "
                f"{self.checkpoints}. Write for example (0, 1, 3, 6, 12, 18)."
            )
        for name in ("learning_rate", "init_std", "l2", "dropout"):
            low, high = getattr(self, name)
            most = 1.0 if name == "dropout" else math.inf
            if not 0 <= low <= high < most or (low == 0 and name != "dropout"):
                raise ValueError(
                    f"ZooConfig {name} must be (lowest, highest), positive, finite and "
                    f"for dropout below 1; got {name}={(low, high)}. Swap or raise "
                    "them, or lower the highest."
                )


@dataclass(frozen=True, kw_only=True)
class ZooRecipe:
    """How one network of a zoo is trained."""

    activation: ActivationName
    """After each convolution."""
    optimizer: OptimizerName
    """What trains it."""
    learning_rate: float
    """Of the optimizer."""
    init_std: float
    """Standard deviation of the initial kernels."""
    l2reg: float
    """Factor of the kernels' squares in the loss."""
    dropout: float
    """Share of channels that each layer drops."""
    train_fraction: float
    """Share of the training images that it sees."""
    random_seed: int
    """Decides initial weights, its images and their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ZooGroup:
    """Networks that were trained together."""

    weights: Float[Tensor, "T M 4970"]
    """Checkpoints, networks, entries in the order of the published layout."""
    accuracies: Float[Tensor, "T M"]
    """Test accuracy, in [0, 1]."""
    losses: Float[Tensor, "T M"]
    """Test loss in nats."""


def train_group(
    recipes: Sequence[ZooRecipe],
    config: ZooConfig,
    train: ImageData,
    test: ImageData,
) -> ZooGroup:
    """Train networks together, as groups of one grouped convolution.

    Args:
        recipes: at least one; all of one activation and one optimizer.
        config: how they are trained.
        train: grey training images, on the device to train on.
        test: grey images to test on, on the same device.

    Returns:
        Every checkpoint of every network, on the CPU. What is no longer finite stays as
        it is and has the accuracy that was measured.
    """
    assert len({(recipe.activation, recipe.optimizer) for recipe in recipes}) == 1
    generator = torch.Generator().manual_seed(recipes[0].random_seed)
    device = train.images.device
    group = _Group(recipes, device)
    order = _Orders(recipes, len(train), config.batch_size)
    weights, scores = [], []
    updates = len(train) // config.batch_size
    epoch = 0
    for stop in config.checkpoints:
        for _ in range((stop - epoch) * updates):
            indices = order.next().to(device)
            group.update(_as_channels(train, indices), train.labels[indices], generator)
        epoch = stop
        weights.append(to_rows(group.by_name()).cpu())
        scores.append([score.cpu() for score in group.evaluate(test)])
    accuracies, losses = zip(*scores, strict=True)
    return ZooGroup(
        weights=torch.stack(weights),
        accuracies=torch.stack(accuracies),
        losses=torch.stack(losses),
    )


class _Group:
    """The stacked parameters of several networks, and what trains them."""

    def __init__(self, recipes: Sequence[ZooRecipe], device: torch.device) -> None:
        self.count = len(recipes)
        self.activation: ActivationName = recipes[0].activation
        self.optimizer: OptimizerName = recipes[0].optimizer
        self.keep = 1 - torch.tensor(
            [recipe.dropout for recipe in recipes], device=device
        )
        self.rate = torch.tensor(
            [recipe.learning_rate for recipe in recipes], device=device
        )
        self.l2 = torch.tensor([recipe.l2reg for recipe in recipes], device=device)
        self.params = [
            torch.stack([values[place] for values in map(_init_network, recipes)]).to(
                device
            )
            for place in range(2 * len(LAYERS))
        ]
        for param in self.params:
            param.requires_grad_()
        self.first = [torch.zeros_like(param) for param in self.params]
        self.second = [torch.zeros_like(param) for param in self.params]
        self.steps = 0

    def by_name(self) -> dict[str, Tensor]:
        """Return the parameters by name, `[M, *shape]`."""
        names = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
        values = (param.detach().clone() for param in self.params)
        return dict(zip(names, values, strict=True))

    def logits(
        self, images: Float[Tensor, "B M H W"], generator: torch.Generator | None
    ) -> Float[Tensor, "M B classes"]:
        """Run every network on images of its own; drop channels with a generator."""
        maps, count = images, self.count
        *convs, (weight, bias) = zip(self.params[::2], self.params[1::2], strict=True)
        squash = torch.relu if self.activation == "relu" else torch.tanh
        for kernel, shift in convs:
            maps = functional.conv2d(
                maps,
                kernel.flatten(0, 1),
                shift.flatten(),
                stride=2,
                padding=1,
                groups=count,
            )
            maps = squash(maps)
            if generator is not None:
                maps = maps * self._mask(len(maps), generator)
        pooled = maps.mean(dim=(2, 3)).unflatten(1, (count, WIDTH))
        return torch.baddbmm(
            bias[:, None], pooled.transpose(0, 1), weight.transpose(1, 2)
        )

    def update(
        self,
        images: Float[Tensor, "B M H W"],
        labels: Int[Tensor, "B M"],
        generator: torch.Generator,
    ) -> None:
        """Take one step of every network."""
        logits = self.logits(images, generator)
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels.T.flatten(), reduction="sum"
        )
        grads = torch.autograd.grad(loss / len(labels), self.params)
        self.steps += 1
        with torch.no_grad():
            for place, (param, grad) in enumerate(zip(self.params, grads, strict=True)):
                if param.ndim > 2:  # kernels and the head's matrix, not biases
                    grad = grad + 2 * _per_network(self.l2, param) * param
                step = self._direction(place, grad)
                param -= _per_network(self.rate, param) * step

    def evaluate(self, data: ImageData) -> tuple[Tensor, Tensor]:
        """Return accuracy and loss of every network, `[M]` each."""
        hits, losses = (self.rate.new_zeros(self.count) for _ in range(2))
        for start in range(0, len(data), _EVALUATION_BATCH):
            stop = min(start + _EVALUATION_BATCH, len(data))
            indices = torch.arange(start, stop, device=self.rate.device)
            images = _as_channels(data, indices[:, None].expand(-1, self.count))
            with torch.no_grad():
                logits = self.logits(images, None)
            labels = data.labels[indices].expand(self.count, -1)
            hits += (logits.argmax(2) == labels).sum(1)
            losses += functional.cross_entropy(
                logits.transpose(1, 2), labels, reduction="none"
            ).sum(1)
        return hits / len(data), losses / len(data)

    def _mask(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return zeros for dropped channels, what keeps the mean for others."""
        keep = self.keep.repeat_interleave(WIDTH)
        drawn = torch.rand(batch, len(keep), generator=generator).to(keep)
        return ((drawn < keep) / keep)[:, :, None, None]

    def _direction(self, place: int, grad: Tensor) -> Tensor:
        """Return what the optimizer makes of a gradient, before its rate."""
        first, second = self.first[place], self.second[place]
        match self.optimizer:
            case "sgd":
                return grad
            case "rmsprop":
                second.lerp_(grad.square(), 0.1)
                return grad / (second.sqrt() + _EPSILON)
            case "adam":
                first.lerp_(grad, 0.1)
                second.lerp_(grad.square(), 0.001)
                mean = first / (1 - 0.9**self.steps)
                scale = (second / (1 - 0.999**self.steps)).sqrt()
                return mean / (scale + _EPSILON)
            case _:
                assert_never(self.optimizer)


class _Orders:
    """Endless batches of indices for each network, from its share of the images."""

    def __init__(
        self, recipes: Sequence[ZooRecipe], num_images: int, batch_size: int
    ) -> None:
        self.batch_size = batch_size
        self.generators = []
        self.shares = []
        for recipe in recipes:
            generator = torch.Generator().manual_seed(recipe.random_seed + 1)
            chosen = torch.randperm(num_images, generator=generator)
            size = max(batch_size, round(recipe.train_fraction * num_images))
            self.generators.append(generator)
            self.shares.append(chosen[:size])
        self.queues = [share[:0] for share in self.shares]

    def next(self) -> Int[Tensor, "B M"]:
        """Return the next batch of every network."""
        for place, share in enumerate(self.shares):
            if len(self.queues[place]) < self.batch_size:
                order = torch.randperm(len(share), generator=self.generators[place])
                self.queues[place] = share[order]
        batch = torch.stack([queue[: self.batch_size] for queue in self.queues], dim=1)
        self.queues = [queue[self.batch_size :] for queue in self.queues]
        return batch


def _init_network(recipe: ZooRecipe) -> Params:
    """Return normal kernels and zero biases, layer by layer."""
    generator = torch.Generator().manual_seed(recipe.random_seed)
    params = []
    for shape in LAYERS.values():
        params += [
            recipe.init_std * torch.randn(shape, generator=generator),
            torch.zeros(shape[0]),
        ]
    return params


def _as_channels(
    data: ImageData, indices: Int[Tensor, "B M"]
) -> Float[Tensor, "B M H W"]:
    """Return images with a channel per network, in channels-last memory."""
    images = data.images[:, 0][indices]
    return images.contiguous(memory_format=torch.channels_last)


def _per_network(values: Float[Tensor, " M"], like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1))
