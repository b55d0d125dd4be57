"""Pairs of networks that are trained by rules changed in opposite ways."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from l2o.rule.rule import Params

from .lanes import Lanes
from .unroll import ProblemStart


class PerturbedRuns(Lanes):
    """Networks of one inner problem, each trained with its own change of theta.

    The first `pairs` lanes add their change to theta, the next `pairs` subtract the
    same ones; with `has_centre` one more lane follows the unchanged theta.

    Args:
        start: what is trained, by which rule, from which seed and for how long.
        pairs: number of pairs.
        has_centre: whether a lane follows the unchanged theta.
        stacked: whether the lanes are one `vmap`; else they take turns.
    """

    def __init__(
        self,
        start: ProblemStart,
        *,
        pairs: int = 1,
        has_centre: bool = False,
        stacked: bool = False,
    ) -> None:
        super().__init__(
            start,
            num_lanes=2 * pairs + has_centre,
            stacked=stacked,
        )
        self.pairs = pairs
        self.noise: Params = {}
        self.memory: Params = {}

    def draw_noise(self, generator: torch.Generator) -> None:
        """Draw new changes, one per pair, of unit deviation; remember their sum.

        Args:
            generator: on the CPU.
        """
        for name, weight in self._trained().items():
            self.noise[name] = torch.randn(
                self.pairs, *weight.shape, generator=generator, dtype=torch.float64
            ).to(weight.device, weight.dtype, non_blocking=True)
            past = self.memory.get(name, torch.zeros_like(self.noise[name]))
            self.memory[name] = past + self.noise[name]

    def changed_theta(self, sigma: float) -> Params:
        """Return theta's trained weights as each lane has them: `[lane, *shape]`."""
        theta = {}
        for name, weight in self._trained().items():
            change = sigma * self.noise[name]
            centre = torch.zeros_like(change[: self.num_lanes - 2 * self.pairs])
            theta[name] = weight.detach() + torch.cat([change, -change, centre])
        return theta

    def skip(self, steps: int) -> None:
        """Take steps with the unchanged theta, from which it does not learn."""
        theta = {
            name: weight.detach().expand(self.num_lanes, *weight.shape)
            for name, weight in self._trained().items()
        }
        while steps > 0 and not self.is_known_over:
            self.step(theta)
            steps -= 1

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return everything that new runs of the same task need to continue."""
        return {**super().state_dict(), "noise": self.noise, "memory": self.memory}

    def _trained(self) -> dict[str, Tensor]:
        return {
            name: weight
            for name, weight in self.bound.rule.named_parameters()
            if weight.requires_grad
        }
