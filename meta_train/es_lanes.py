"""Pairs of networks that are trained by rules changed in opposite ways."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from l2o.rule.rule import Params
from l2o.rule.state import State

from .unroll import DIVERGENCE, ProblemStart


class PerturbedRuns:
    """Networks of one inner problem, each trained with its own change of theta.

    All start from the same parameters and read the same batches, so that what differs
    between them is the change alone. The first `pairs` lanes add their change to theta,
    the next `pairs` subtract the same ones; with `has_centre` one more lane follows the
    unchanged theta.

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
        self.task, self.bound = task, bound = start.task, start.bound
        self.seed, self.length = start.seed, start.length
        self.pairs = pairs
        self.num_lanes = 2 * pairs + has_centre
        self.stacked = stacked
        self.position = 0
        self.batches = task.batches(self.seed)
        self.noise: Params = {}
        self.memory: Params = {}
        params, buffers = task.init_params(self.seed), task.init_buffers(self.seed)
        self.params: Params = _repeated(params, self.num_lanes)
        self.buffers: Params = _repeated(buffers, self.num_lanes)
        self.state: State = _repeated(bound.rule.init_state(params), self.num_lanes)
        self.grads: Params = {}
        self.losses = self._measure()
        self.first_losses = self.losses
        self.is_lost = ~torch.isfinite(self.losses)

    @property
    def has_diverged(self) -> bool:
        """Whether every lane has diverged."""
        return bool(self.is_lost.all())

    @property
    def is_over(self) -> bool:
        """Whether the problem has reached its length or diverged."""
        return self.position >= self.length or self.has_diverged

    def draw_noise(self, generator: torch.Generator) -> None:
        """Draw new changes, one per pair, of unit deviation; remember their sum.

        Args:
            generator: on the CPU.
        """
        for name, weight in self._trained().items():
            self.noise[name] = torch.randn(
                self.pairs, *weight.shape, generator=generator, dtype=torch.float64
            ).to(weight)
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

    @torch.no_grad()
    def step(self, theta: Params) -> Tensor:
        """Move every lane once and return its loss on the next batch: `[lane]`.

        Args:
            theta: what `changed_theta` returned.
        """
        function = self.bound.lane_step(stacked=self.stacked)
        self.params, self.state = self._over_lanes(
            function, (theta, self.params, self.grads, self.state)
        )
        self.position += 1
        self.losses = self._measure()
        is_sound = self.losses <= DIVERGENCE * self.first_losses
        self.is_lost = self.is_lost | ~is_sound
        return self.losses

    def skip(self, steps: int) -> None:
        """Take steps with the unchanged theta, from which it does not learn."""
        theta = {
            name: weight.detach().expand(self.num_lanes, *weight.shape)
            for name, weight in self._trained().items()
        }
        while steps > 0 and not self.is_over:
            self.step(theta)
            steps -= 1

    def gather(self, lane: int) -> None:
        """Put every lane where one of them is."""
        for values in (self.params, self.grads, self.buffers, *self.state.values()):
            for name, item in values.items():
                values[name] = item[lane].expand_as(item).clone()
        self.losses = self.losses[lane].expand_as(self.losses).clone()
        self.is_lost = self.is_lost[lane].expand_as(self.is_lost).clone()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that new runs of the same task need to continue."""
        names = ("seed", "length", "position", *_TENSORS)
        values = {name: getattr(self, name) for name in names}
        return {**values, "batches": self.batches.state_dict()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Continue where other runs of the same task stopped."""
        for name, value in values.items():
            if name == "batches":
                self.batches.load_state_dict(value)
            else:
                setattr(self, name, value)

    def _measure(self) -> Tensor:
        """Draw the next batch; take gradients and losses of every lane on it."""
        batch = self.batches.next()
        if self.stacked:
            one = grad_and_value(self.task.loss_and_buffers, has_aux=True)
            # The fused attention kernels have no batching rule.
            with sdpa_kernel(SDPBackend.MATH):
                self.grads, (losses, self.buffers) = vmap(one, in_dims=(0, None, 0))(
                    self.params, batch, self.buffers
                )
            return losses.detach()
        found = [
            self.task.loss_and_grads(
                _pick(self.params, lane), batch, _pick(self.buffers, lane)
            )
            for lane in range(self.num_lanes)
        ]
        self.grads = _stack([item.grads for item in found])
        self.buffers = _stack([item.buffers for item in found])
        return torch.stack([item.loss for item in found])

    def _over_lanes(self, function: Callable[..., Any], arguments: tuple) -> Any:
        """Call a function of one lane on all of them."""
        if self.stacked:
            return function(*arguments)
        done = [
            function(*(_pick(argument, lane) for argument in arguments))
            for lane in range(self.num_lanes)
        ]
        return tuple(_stack(part) for part in zip(*done, strict=True))

    def _trained(self) -> dict[str, Tensor]:
        return {
            name: weight
            for name, weight in self.bound.rule.named_parameters()
            if weight.requires_grad
        }


_TENSORS = (
    "params",
    "buffers",
    "state",
    "grads",
    "losses",
    "first_losses",
    "is_lost",
    "noise",
    "memory",
)


def _repeated(values: Any, times: int) -> Any:
    """Return nested values with every tensor repeated along a new first axis."""
    if isinstance(values, Mapping):
        return {name: _repeated(item, times) for name, item in values.items()}
    return values.expand(times, *values.shape).clone()


def _pick(values: Any, lane: int) -> Any:
    """Return nested values of one lane; views."""
    if isinstance(values, Mapping):
        return {name: _pick(item, lane) for name, item in values.items()}
    return values[lane]


def _stack(lanes: Sequence[Any]) -> Any:
    """Return nested values of all lanes along a new first axis."""
    if isinstance(lanes[0], Mapping):
        return {name: _stack([lane[name] for lane in lanes]) for name in lanes[0]}
    return torch.stack(tuple(lanes))
