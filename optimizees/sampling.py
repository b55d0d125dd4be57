"""Random inner problems: which network, on which images, in which units."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar, Literal, TypeAlias, assert_never

import torch
from torch import nn

from optimizees.attention import ImageTransformer
from optimizees.cnn import ConvNet
from optimizees.data.images import ImageData
from optimizees.draws import draw_one
from optimizees.image_tasks import image_task
from optimizees.mlp import MLP
from optimizees.norms import NormName
from optimizees.residual import ResidualNet
from optimizees.task import Task

Kind: TypeAlias = Literal["mlp", "cnn", "residual", "attention"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One inner problem, drawn: enough to build it."""

    network: Kind
    """What is trained."""
    width: int
    """Hidden neurons, channels or token channels."""
    depth: int
    """Hidden layers, convolutions or blocks."""
    activation: str
    """Name for `build_activation`."""
    kernel_size: int
    """Side of the kernels in pixels. A transformer has 7 x 7 patches in any case."""
    norm: NormName
    """Normalisation of perceptrons, CNNs and residual networks."""
    image_size: int
    """Side of the images in pixels."""
    classes: tuple[int, ...]
    """Which classes there are, in the order of the outputs."""
    batch_size: int
    """Images per batch."""
    init_scale: float
    """Factor of the initial matrices and kernels; the function changes."""
    unit_spread: float
    """Parameters are kept in units drawn log-uniformly from `1 / unit_spread` to
    `unit_spread`, one unit per tensor; the function stays."""
    seed: int
    """Decides the units."""

    @property
    def label(self) -> str:
        """A short name for logs."""
        return (
            f"{self.network} {self.width} x {self.depth} {self.activation} "
            f"{self.norm} norm, {self.image_size} px, {len(self.classes)} classes, "
            f"batches of {self.batch_size}"
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """Ranges that inner problems are drawn from, every field independently."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    networks: tuple[Kind, ...] = ("mlp", "cnn", "residual", "attention")
    """Kinds of network."""
    width: tuple[int, int] = (8, 32)
    """Narrowest and widest; log-uniform, rounded to a multiple of four."""
    depth: tuple[int, int] = (1, 3)
    """Shallowest and deepest; uniform."""
    activations: tuple[str, ...] = ("relu", "gelu", "silu", "tanh")
    """Names for `build_activation`."""
    kernel_sizes: tuple[int, ...] = (3, 5)
    """Sides of kernels in pixels, odd."""
    norms: tuple[NormName, ...] = ("none", "batch", "layer")
    """Names for `build_norm`."""
    image_sizes: tuple[Literal[7, 14, 28], ...] = (7, 14)
    """Sides of images in pixels."""
    num_classes: tuple[int, int] = (2, 10)
    """Fewest and most classes; which ones is drawn, too."""
    batch_size: tuple[int, int] = (16, 128)
    """Smallest and largest; log-uniform."""
    init_scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest; log-uniform."""
    unit_spread: float = 1.0
    """Of every problem; see `Problem`. 1 for none."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "num_classes", "batch_size", "init_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"Family {name} must be (lowest, highest) with 0 < lowest <= "
                    f"highest; got {name}={(low, high)}. Swap or raise them."
                )
        for field in fields(self):
            if getattr(self, field.name) == ():
                raise ValueError(
                    f"Family {field.name} must hold at least one choice; got "
                    f"{field.name}=(). Add one, or leave it out for the default."
                )
        if self.num_classes[1] > 10 or self.num_classes[0] < 2:
            raise ValueError(
                "Family num_classes must lie between 2 and the 10 that there are; got "
                f"num_classes={self.num_classes}. Narrow the range."
            )
        if not self.unit_spread >= 1:
            raise ValueError(
                "Family unit_spread must be at least 1; got "
                f"unit_spread={self.unit_spread}. Choose 1 for none."
            )

    def draw(self, generator: torch.Generator) -> Problem:
        """Return one problem.

        Args:
            generator: on the CPU.
        """
        num_classes = _uniform(self.num_classes, generator)
        classes = torch.randperm(10, generator=generator)[:num_classes]
        return Problem(
            network=draw_one(self.networks, generator),
            width=max(4, 4 * round(_log_uniform(self.width, generator) / 4)),
            depth=_uniform(self.depth, generator),
            activation=draw_one(self.activations, generator),
            kernel_size=draw_one(self.kernel_sizes, generator),
            norm=draw_one(self.norms, generator),
            image_size=draw_one(self.image_sizes, generator),
            classes=tuple(classes.tolist()),
            batch_size=round(_log_uniform(self.batch_size, generator)),
            init_scale=_log_uniform(self.init_scale, generator),
            unit_spread=self.unit_spread,
            seed=int(torch.randint(2**31, (1,), generator=generator)),
        )


def build_problem(
    problem: Problem, data: ImageData, held_out: Mapping[str, ImageData] | None = None
) -> Task:
    """Build the task that a problem describes.

    Args:
        problem: which network, images, units.
        data: square images of all ten classes, at least `image_size` pixels per side.
        held_out: such images to evaluate on, by split.

    Returns:
        The task, on the data's device. Its units are left to `FunctionalTask`, which
        takes the problem's `unit_spread` and, as `unit_seed`, its `seed`.

    Raises:
        ValueError: if `image_size` does not divide the side, or a class has no image.
    """
    data = _as_seen(problem, data)
    splits = {} if held_out is None else dict(held_out)
    build = network_builder(problem, channels=data.images.shape[1])
    return image_task(
        problem.label,
        partial(_scaled, build, problem.init_scale),
        data,
        batch_size=problem.batch_size,
        held_out={split: _as_seen(problem, images) for split, images in splits.items()},
    )


def _as_seen(problem: Problem, data: ImageData) -> ImageData:
    """Return images as a problem has them: pooled, and of its classes only."""
    if problem.image_size != data.images.shape[-1]:
        data = data.pooled(problem.image_size)
    return data.of_classes(problem.classes) if len(problem.classes) < 10 else data


def _scaled(build: Callable[[], nn.Module], factor: float) -> nn.Module:
    """Build a network and scale its parameters of two or more axes."""
    model = build()
    if factor != 1:
        with torch.no_grad():
            for param in model.parameters():
                if param.ndim > 1:
                    param.mul_(factor)
    return model


def network_builder(problem: Problem, *, channels: int) -> Callable[[], nn.Module]:
    """Return what builds the problem's network, initialised from torch's generator."""
    width, depth, outputs = problem.width, problem.depth, len(problem.classes)
    convolution = {
        "kernel_size": problem.kernel_size,
        "activation": problem.activation,
        "norm": problem.norm,
    }
    match problem.network:
        case "mlp":
            inputs = channels * problem.image_size**2
            widths = (inputs, *[width] * depth, outputs)
            return partial(MLP, widths, problem.activation, problem.norm)
        case "cnn":
            return partial(
                ConvNet,
                channels,
                (width,) * (depth + 1),
                num_classes=outputs,
                image_size=problem.image_size,
                **convolution,
            )
        case "residual":
            return partial(
                ResidualNet,
                channels,
                width,
                depth,
                outputs,
                **convolution,
            )
        case "attention":
            return partial(
                ImageTransformer,
                channels,
                problem.image_size,
                problem.image_size // 7,
                width,
                depth,
                outputs,
                activation=problem.activation,
            )
        case _:
            assert_never(problem.network)


def _uniform(span: tuple[int, int], generator: torch.Generator) -> int:
    return int(torch.randint(span[0], span[1] + 1, (1,), generator=generator))


def _log_uniform(
    span: tuple[float, float] | tuple[int, int], generator: torch.Generator
) -> float:
    low, high = span
    place = float(torch.rand(1, generator=generator, dtype=torch.float64))
    return low * (high / low) ** place
