"""The networks whose steps are timed, each with one training batch."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimizees import MLP, cifar_cnn, fashion_cnn
from optimizees.resnet import ResNet18
from optimizees.transformer import GPT, BlockSizes, ViT

from .small_models import LanguageModel, TwoTables, encoder

NetworkName: TypeAlias = Literal[
    "fashion-cnn",
    "cifar-cnn",
    "mlp-1m",
    "mlp-10m",
    "resnet-18",
    "vit-b-16",
    "mlp-100m",
    "gpt-2",
    "mlp-10k",
    "mlp-100k",
    "gpt-10k",
    "gpt-100k",
    "gpt-1m",
    "gpt-10m",
    "policy",
    "perceptron",
    "lstm",
    "two-tables",
    "encoder",
]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)

_MLP_WIDTHS = {"10k": 50, "100k": 158, "1m": 500, "10m": 1580, "100m": 5000}
_GPT_WIDTHS = {"10k": 12, "100k": 40, "1m": 144, "10m": 456}
_CHARACTERS = 256


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with one batch to train on."""

    model: nn.Module
    """In training mode."""
    inputs: Tensor
    """What it reads; noise, since values do not change the cost."""
    targets: Tensor
    """Integers, one per row of outputs."""
    batch: str
    """What a batch is, in words."""

    def loss(self) -> Tensor:
        """Return the cross entropy of the batch."""
        scores = self.model(self.inputs)
        return F.cross_entropy(scores.flatten(0, -2), self.targets.flatten())

    @property
    def num_parameters(self) -> int:
        """Number of entries of all parameters."""
        return sum(param.numel() for param in self.model.parameters())


def build_network(
    name: NetworkName, device: torch.device, count: int | None = None
) -> Network:
    """Build a network and a batch, the same every time.

    ViT-B/16 and GPT-2 read a small batch on a CPU, where a usual one takes minutes; so
    their step looks larger compared with forward and backward than in real training.

    Args:
        name: which.
        device: where both are built.
        count: number of samples in the batch; None for the usual one.
    """
    is_small = device.type == "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        match name:
            case "fashion-cnn":
                found = _images(fashion_cnn(), count or 128, 1, 28, 10)
            case "cifar-cnn":
                found = _images(cifar_cnn(), count or 128, 3, 32, 10)
            case "resnet-18":
                found = _images(ResNet18(10, "cifar"), count or 128, 3, 32, 10)
            case "vit-b-16":
                found = _images(ViT(), count or (4 if is_small else 32), 3, 224, 1000)
            case "gpt-2":
                found = _texts(GPT(), count or (1 if is_small else 8), 1024, 50257)
            case "mlp-10k" | "mlp-100k" | "mlp-1m" | "mlp-10m" | "mlp-100m":
                found = _vectors(_MLP_WIDTHS[name.removeprefix("mlp-")], count or 128)
            case "gpt-10k" | "gpt-100k" | "gpt-1m" | "gpt-10m":
                width = _GPT_WIDTHS[name.removeprefix("gpt-")]
                model = GPT(
                    _CHARACTERS, 128, BlockSizes(width=width, num_blocks=4, num_heads=4)
                )
                found = _texts(model, count or 8, 128, _CHARACTERS)
            case "policy":
                found = _classified(MLP((4, 64, 64, 2)), torch.randn(count or 32, 4), 2)
            case "perceptron":
                model = MLP((784, 256, 128, 10))
                found = _classified(model, torch.randn(count or 32, 784), 10)
            case "lstm":
                found = _texts(LanguageModel(), count or 32, 64, _CHARACTERS)
            case "two-tables":
                pairs = torch.randint(20_000, (count or 32, 2))
                found = _classified(TwoTables(), pairs, 2)
            case "encoder":
                found = _sequences(encoder(), count or 32, 64, 256)
            case _:
                assert_never(name)
    return Network(
        model=found.model.to(device),
        inputs=found.inputs.to(device),
        targets=found.targets.to(device),
        batch=found.batch,
    )


def _images(
    model: nn.Module, count: int, channels: int, side: int, classes: int
) -> Network:
    return Network(
        model=model,
        inputs=torch.randn(count, channels, side, side),
        targets=torch.randint(classes, (count,)),
        batch=f"{count} images of {side} x {side}",
    )


def _texts(model: nn.Module, count: int, length: int, vocabulary: int) -> Network:
    return Network(
        model=model,
        inputs=torch.randint(vocabulary, (count, length)),
        targets=torch.randint(vocabulary, (count, length)),
        batch=f"{count} texts of {length} tokens" if count > 1 else f"{length} tokens",
    )


def _classified(model: nn.Module, inputs: Tensor, classes: int) -> Network:
    return Network(
        model=model,
        inputs=inputs,
        targets=torch.randint(classes, (len(inputs),)),
        batch=f"{len(inputs)} rows of {inputs[0].numel()}",
    )


def _sequences(model: nn.Module, count: int, length: int, width: int) -> Network:
    return Network(
        model=model,
        inputs=torch.randn(count, length, width),
        targets=torch.randint(width, (count, length)),
        batch=f"{count} sequences of {length} vectors",
    )


def _vectors(width: int, count: int) -> Network:
    return Network(
        model=MLP((width,) * 5),
        inputs=torch.randn(count, width),
        targets=torch.randint(width, (count,)),
        batch=f"{count} vectors",
    )
