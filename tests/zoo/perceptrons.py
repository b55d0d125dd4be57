"""Fully connected networks, and what people do with them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimizees import MLP


def mlp():
    return MLP((5, 8, 7, 3), activation="tanh"), (torch.randn(4, 5),)


def mlp_without_biases():
    layers = (nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    return nn.Sequential(*layers), (torch.randn(4, 5),)


def mlp_with_norms():
    layers = []
    for norm in (nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm):
        layers += [nn.Linear(8, 8), norm(8), nn.SiLU(), nn.Dropout(0.0)]
    return nn.Sequential(*layers, nn.Linear(8, 3)), (torch.randn(4, 8),)


class Sine(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return torch.sin(5.0 * values)


def siren():
    """An image as a function of its coordinates."""
    layers = (nn.Linear(2, 8), Sine(), nn.Linear(8, 8), Sine(), nn.Linear(8, 1))
    return nn.Sequential(*layers), (torch.rand(9, 2) * 2 - 1,)


class TiedAutoencoder(nn.Module):
    """The decoder multiplies by the encoder's transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(9, 6)
        self.shift = nn.Parameter(torch.zeros(9))

    def forward(self, values: Tensor) -> Tensor:
        code = torch.sigmoid(self.encoder(values))
        return F.linear(code, self.encoder.weight.t(), self.shift)


def tied_autoencoder():
    return TiedAutoencoder(), (torch.randn(4, 9),)


class SharedLayer(nn.Module):
    """One layer is applied twice, so its inputs and outputs are the same neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(5, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(values))
        hidden = torch.tanh(self.shared(hidden))
        return self.last(torch.tanh(self.shared(hidden)))


def shared_layer():
    return SharedLayer(), (torch.randn(4, 5),)


class UnusedParameters(nn.Module):
    """A layer that no forward pass reaches, and a scalar that one does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        self.forgotten = nn.Linear(4, 6)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, values: Tensor) -> Tensor:
        return self.body(values) * self.temperature


def unused_parameters():
    return UnusedParameters(), (torch.randn(4, 5),)


class TwoInputs(nn.Module):
    """One branch is concatenated with the other, then gated by it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 5)
        self.gate, self.joint = nn.Linear(5, 7), nn.Linear(11, 7)
        self.last = nn.Linear(7, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = torch.relu(self.left(left)), torch.relu(self.right(right))
        joint = self.joint(torch.cat([left, right], dim=1))
        return self.last(joint * torch.sigmoid(self.gate(right)))


def two_inputs():
    return TwoInputs(), (torch.randn(4, 4), torch.randn(4, 3))


class DynamicDepth(nn.Module):
    """The values decide how often the middle layer runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(5, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(values))
        for _ in range(1 + int(values.sum().item() > 0)):
            hidden = hidden + torch.tanh(self.middle(hidden))
        return self.last(hidden)


def dynamic_depth():
    return DynamicDepth(), (torch.randn(4, 5).abs(),)


class Experts(nn.Module):
    """Two experts, softly mixed by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(5, 8), nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 6) for _ in range(2))
        self.last = nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.relu(self.first(values))
        shares = self.router(hidden).softmax(dim=-1)
        outputs = [expert(hidden) for expert in self.experts]
        mixed = sum(shares[:, k, None] * output for k, output in enumerate(outputs))
        return self.last(torch.relu(mixed))


def experts():
    return Experts(), (torch.randn(4, 5),)


class LowRank(nn.Module):
    """A frozen-style adapter: the weight is a sum with a product of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(5, 8)
        self.up = nn.Parameter(torch.randn(8, 2))
        self.down = nn.Parameter(torch.randn(2, 5))
        self.last = nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        weight = self.base.weight + self.up @ self.down
        return self.last(torch.relu(F.linear(values, weight, self.base.bias)))


def low_rank_adapter():
    return LowRank(), (torch.randn(4, 5),)


def weight_norm():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 8))
    return nn.Sequential(normed, nn.Tanh(), nn.Linear(8, 3)), (torch.randn(4, 5),)
