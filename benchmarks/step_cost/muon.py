"""Muon with the Newton-Schulz products that our rules use, AdamW for the rest."""

from typing import overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.linear_maps import fan_ins
from l2o.rule.newton_schulz import whiten


class FloatMuon(Optimizer):
    """Momentum with Nesterov's look ahead, whitened in float32; AdamW for the rest.

    `torch.optim.Muon` whitens in bfloat16, which takes a sixth of the time on a CPU
    that multiplies it and several times as long on one that does not. Here the products
    are those of our rules, five steps, so that what is compared is all the rest.

    Args:
        model: the network.
        graph: says which parameters are linear maps.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(self, model: nn.Module, graph: NeuralGraph) -> None:
        maps = fan_ins(graph)
        named = dict(model.named_parameters())
        self.maps = [param for name, param in named.items() if name in maps]
        others = [param for name, param in named.items() if name not in maps]
        super().__init__(model.parameters(), {"lr": 0.02, "momentum": 0.95})
        self.others = torch.optim.AdamW(others, lr=1e-3) if others else None

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: object) -> float: ...

    @override
    @torch.no_grad()
    def step(self, closure: object = None) -> float | None:
        """Update all parameters."""
        group = self.param_groups[0]
        for param in self.maps:
            grad = param.grad
            assert isinstance(grad, Tensor)
            state = self.state[param]
            if not state:
                state["momentum"] = torch.zeros_like(grad)
            momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
            ahead = grad.lerp(momentum, group["momentum"]).flatten(1)
            param.add_(whiten(ahead).view_as(param), alpha=-group["lr"])
        if self.others is not None:
            self.others.step()
        return None
