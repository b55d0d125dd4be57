"""A custom rule: momentum with one step length per neuron.

The incoming weights of each neuron move by the length `exp(log_size)`. That number is
theta, and `learned_step` is differentiable with respect to it: see `functional.py`.
"""

from collections.abc import Mapping

import torch
from compare import compare
from torch import Tensor, nn
from torch.nn import functional

from l2o import AbstractRule, NeuralGraph, NeuralGraphOpt
from optimizees import load_fashion_mnist

State = dict[str, dict[str, Tensor]]


class NeuronMomentum(AbstractRule):
    """Momentum, scaled to one length for each row of a tensor."""

    step_size = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.log_size = nn.Parameter(torch.tensor(-4.0))

    def check(self, graph: NeuralGraph) -> None:
        """Take any graph."""

    def init_state(self, params: Mapping[str, Tensor]) -> State:
        """Return a momentum of zero for each parameter."""
        return {name: {"momentum": torch.zeros_like(p)} for name, p in params.items()}

    def advance(self, state: State, grads: Mapping[str, Tensor]) -> State:
        """Return the momenta after one more gradient."""
        moved = {key: state[key]["momentum"].lerp(grads[key], 0.1) for key in grads}
        return {**state, **{key: {"momentum": item} for key, item in moved.items()}}

    def forward(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter."""
        updates = {}
        for name, param in params.items():
            rows = state[name]["momentum"].reshape(len(param), -1)
            lengths = (rows.square().sum(1, keepdim=True) + 1e-16).sqrt()
            updates[name] = -self.log_size.exp() * (rows / lengths).view_as(param)
        return updates


def train(optimizer_name: str, steps: int) -> tuple[list[float], str]:
    """Return the loss of each step of a multi-layer perceptron on FashionMNIST."""
    torch.manual_seed(0)
    data = load_fashion_mnist("train")
    layers = [nn.Flatten(), nn.Linear(784, 32), nn.Tanh(), nn.Linear(32, 10)]
    model = nn.Sequential(*layers)
    if optimizer_name == "Adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    else:
        optimizer = NeuralGraphOpt(model.parameters(), rule=NeuronMomentum())
    losses: list[float] = []
    for _ in range(steps):
        chosen = torch.randint(len(data), (64,))
        loss = functional.cross_entropy(model(data.images[chosen]), data.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, f"on {data.source}"


if __name__ == "__main__":
    compare(train, steps=100)
