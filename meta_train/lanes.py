"""Networks of one inner problem side by side, each trained by a theta of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from l2o.rule.rule import Params
from l2o.rule.state import State
from l2o.schedules import average_share
from optimizees import Batch

from .unroll import DIVERGENCE, ProblemStart, is_on_host


class Lanes:
    """Networks that start from the same parameters and read the same batches.

    What differs between them is theta alone, so what their losses differ by is due to
    theta, but for what rounding makes of it.

    Args:
        start: what is trained, by which rule, from which seed and for how long.
        num_lanes: number of networks.
        stacked: whether the lanes are one `vmap`; else they take turns.
    """

    def __init__(
        self,
        start: ProblemStart,
        *,
        num_lanes: int,
        stacked: bool = False,
    ) -> None:
        self.task, self.bound = task, bound = start.task, start.bound
        self.seed, self.length = start.seed, start.length
        self.num_lanes = num_lanes
        self.stacked = stacked
        self.position = 0
        self.batches = task.batches(self.seed)
        params, buffers = task.init_params(self.seed), task.init_buffers(self.seed)
        self.params: Params = _repeated(params, num_lanes)
        self.averages: Params = dict(self.params) if start.is_averaged else {}
        self.buffers: Params = _repeated(buffers, num_lanes)
        self.state: State = _repeated(bound.rule.init_state(params), num_lanes)
        self.grads: Params = {}
        self.losses = self._measure()
        self.first_losses = self.losses
        self.is_lost = ~torch.isfinite(self.losses)
        self.reads_at_once = is_on_host(self.params)

    @property
    def has_diverged(self) -> bool:
        """Whether every lane has diverged."""
        return bool(self.is_lost.all())

    @property
    def is_over(self) -> bool:
        """Whether the problem has reached its length or diverged."""
        return self.position >= self.length or self.has_diverged

    @property
    def is_known_over(self) -> bool:
        """`is_over`, as far as the host knows without waiting for the device."""
        is_at_end = self.position >= self.length
        return is_at_end or (self.reads_at_once and self.has_diverged)

    @torch.no_grad()
    def step(self, theta: Params) -> Tensor:
        """Move every lane once and return its loss on the next batch: `[lane]`.

        Args:
            theta: name to `[lane, *shape]`, of the weights in which lanes differ.
        """
        function = self.bound.lane_step(stacked=self.stacked)
        self.params, self.state = self._over_lanes(
            function, (theta, self.params, self.grads, self.state)
        )
        if self.averages:
            count = self.position
            self.averages = averaged_params(self.averages, self.params, count)
        self.position += 1
        self.losses = self._measure()
        is_sound = self.losses <= DIVERGENCE * self.first_losses
        self.is_lost = self.is_lost | ~is_sound
        return self.losses

    @torch.no_grad()
    def losses_on(self, batches: Sequence[Batch], *, at_average: bool) -> Tensor:
        """Return each lane's mean loss over batches: `[lane]`.

        Batch norm uses their statistics, not the running ones.

        Args:
            batches: at least one.
            at_average: whether at the averaged weights, not the latest.
        """
        params = self.averages if at_average else self.params
        found = []
        # In turns: without autograd, recurrent layers have no batching rule.
        for lane in range(self.num_lanes):
            own, buffers = _pick(params, lane), _pick(self.buffers, lane)
            losses = [self.task.loss(own, batch, buffers) for batch in batches]
            found.append(torch.stack(losses).mean())
        return torch.stack(found)

    def gather(self, lane: int) -> None:
        """Put every lane where one of them is."""
        kept = (self.params, self.averages, self.grads, self.buffers)
        for values in (*kept, *self.state.values()):
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


_TENSORS = (
    *("params", "averages", "buffers", "state", "grads"),
    *("losses", "first_losses", "is_lost"),
)


def averaged_params(averages: Params, params: Params, count: int) -> Params:
    """Return averaged weights that hold the latest ones, too; as the optimizer's do.

    Args:
        averages: before; any weights of the same shapes where `count` is 0.
        params: the latest weights.
        count: number of weights that the averages hold already.
    """
    share = average_share(float(count))
    return {
        name: torch.lerp(average, params[name], share)
        for name, average in averages.items()
    }


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
