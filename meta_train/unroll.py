"""Inner problems in flight: a network, its batches, its optimizer state."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from l2o import AbstractRule, NeuralGraph, neural_graph
from l2o.rule.rule import Params
from l2o.rule.state import State, Tensors
from l2o.rule.step import Hyper, take_step
from optimizees import Batch, FunctionalTask
from optimizees.batches import arguments
from optimizees.functional_task import LossAndGrads

from .cuda_graphs import captured

Updates: TypeAlias = Callable[[Tensors, Tensors, State], dict[str, Tensor]]
"""The rule on one graph: parameters, gradients, state to updates."""
Cotangent: TypeAlias = Callable[[], Params]
"""Finds the derivative of the meta-loss by one step's update, of every parameter."""
TakeGradients: TypeAlias = Callable[[Params, Batch, Params], LossAndGrads]
"""Parameters, batch, buffers to loss, gradients and buffers, without a graph."""

_READ_EVERY = 100
"""Steps of a long run after which its losses are read, at the latest."""


def is_on_host(params: Params) -> bool:
    """Whether tensors lie on the CPU, where reading a number waits for nothing."""
    return next(iter(params.values())).device.type == "cpu"


def read_numbers(items: Sequence[Tensor]) -> list[float]:
    """Return the values of scalars on one device, in one transfer."""
    return torch.stack(tuple(items)).tolist() if items else []


@dataclass(frozen=True, slots=True)
class InnerStep:
    """What the rule read at one inner step: enough to compute its update again."""

    params: Params
    grads: Params
    state: State


@dataclass(frozen=True, slots=True)
class ProblemStart:
    """What an inner problem starts from."""

    task: FunctionalTask
    """What is trained."""
    bound: "RuleOnGraph"
    """The rule on this task's graph."""
    seed: int
    """Decides initial parameters and batches."""
    length: int
    """Inner steps after which the problem is over."""
    is_averaged: bool = False
    """Whether the weights are averaged along the way, as the optimizer averages them,
    and judged so."""


class RuleOnGraph:
    """A rule bound to the graph of a task; theta stays shared.

    Args:
        rule: what computes the updates.
        task: the network that is trained, which is traced.
        compile: whether the rule is compiled.
        graph: of the network, if it is known; None for tracing it.
        captures: whether inner steps are replayed as CUDA graphs.
    """

    def __init__(
        self,
        rule: AbstractRule,
        task: FunctionalTask,
        *,
        compile: bool,
        graph: NeuralGraph | None = None,
        captures: bool = False,
    ) -> None:
        self.rule = rule
        self._task = task
        if graph is None:
            example = arguments(task.batches(0).next())
            graph = neural_graph(task.task.init_model(0), *example)
        self.graph = graph
        rule.check(self.graph)
        rule.prepare(self.graph)
        self._compiled = torch.compile if compile else _as_it_is
        self.updates: Updates = self._compiled(self._updates)
        self.updates_without_grad = (
            captured(self._updates) if captures else self.updates
        )
        self.loss_and_grads = cache(_captured_loss) if captures else _plain_loss
        self.lane_step = cache(self._lane_step)

    def with_rule(self, rule: AbstractRule) -> "RuleOnGraph":
        """Return another rule on the same graph, such as one that knows the horizon.

        Its steps are not replayed as CUDA graphs.

        Raises:
            ValueError: if the rule was compiled.
        """
        if self._compiled is not _as_it_is:
            raise ValueError(
                "RuleOnGraph.with_rule needs a rule that is not compiled, for every "
                "other one would compile again. Set compile: false."
            )
        return RuleOnGraph(rule, self._task, compile=False, graph=self.graph)

    def step(
        self,
        params: Params,
        grads: Params,
        state: State,
        *,
        lr: float = 1.0,
        updates: Updates | None = None,
    ) -> tuple[Params, State]:
        """Take the step that `NeuralGraphOpt` takes; pure.

        Args:
            params: of the network.
            grads: of every parameter.
            state: of the rule.
            lr: multiplier of the updates.
            updates: what computes them; None for the rule as it was bound.

        Returns:
            The parameters after the step, and the state with this gradient in it.
        """
        compute = self.updates if updates is None else updates
        new, state, _ = take_step(
            self.rule,
            self.graph,
            params,
            grads,
            state,
            dict.fromkeys(params, Hyper(lr=lr)),
            compute=lambda _, *arguments: compute(*arguments),
        )
        return new, state

    def _updates(
        self, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        return self.rule(self.graph, params, grads, state)

    def _lane_step(self, *, stacked: bool) -> Callable[..., tuple[Params, State]]:
        """Return one step as a function of theta: `(theta, params, grads, state)`.

        Args:
            stacked: whether every argument has a lane as its first axis.
        """

        def step(
            theta: Params, params: Params, grads: Params, state: State
        ) -> tuple[Params, State]:
            def updates(*arguments: Any) -> dict[str, Tensor]:
                return functional_call(self.rule, theta, (self.graph, *arguments))

            return self.step(params, grads, state, updates=updates)

        return self._compiled(vmap(step) if stacked else step)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _plain_loss(task: FunctionalTask) -> TakeGradients:
    return task.loss_and_grads


def _captured_loss(task: FunctionalTask) -> TakeGradients:
    """Return `task.loss_and_grads` in a form that compiles without a break."""

    @captured
    def grads_and_loss(
        params: Params, batch: Batch, buffers: Params
    ) -> tuple[Params, tuple[Tensor, Params]]:
        function = grad_and_value(task.loss_and_buffers, has_aux=True)
        return function(params, batch, buffers)

    def loss_and_grads(params: Params, batch: Batch, buffers: Params) -> LossAndGrads:
        grads, (loss, after) = grads_and_loss(params, batch, buffers)
        return LossAndGrads(loss, grads, after)

    return loss_and_grads


DIVERGENCE = 3.0
"""An inner run is given up where its loss exceeds this multiple of its first loss."""


class InnerRun:
    """One network being trained by a rule.

    No step waits for the device. On a CPU the loss is read after every step. On an
    accelerator that would stall the device, so `settle` reads the losses of many steps
    together and leaves out what came after a divergence.

    Args:
        start: what is trained, by which rule, from which seed and for how long.
        is_annealed: whether a multiplier falls linearly from 1 to 0 over the run, as a
            user's scheduler may have it. Estimators need it constant.
    """

    def __init__(self, start: ProblemStart, *, is_annealed: bool = False) -> None:
        self.task, self.bound = task, bound = start.task, start.bound
        self.seed, self.length = start.seed, start.length
        self.is_annealed = is_annealed
        self.position = 0
        self.batches = task.batches(self.seed)
        self.params: Params = task.init_params(self.seed)
        self.buffers: Params = task.init_buffers(self.seed)
        self.state: State = bound.rule.init_state(self.params)
        self.reads_at_once = is_on_host(self.params)
        self.first_loss = self.loss = math.inf
        self.settle([self.measure()])
        self.first_loss = self.loss

    @property
    def has_diverged(self) -> bool:
        """Whether the last loss read is far above the first one, or not finite."""
        return not self.loss <= DIVERGENCE * self.first_loss

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its length or diverged."""
        return self.position >= self.length or self.has_diverged

    def step(self) -> InnerStep:
        """Move the parameters once; `measure` must follow before the next step."""
        lr = 1 - self.position / self.length if self.is_annealed else 1.0
        before, grads = self.params, self.grads
        with torch.no_grad():
            self.params, self.state = self.bound.step(
                before,
                grads,
                self.state,
                lr=lr,
                updates=self.bound.updates_without_grad,
            )
        self.position += 1
        return InnerStep(before, grads, self.state)

    def measure(self) -> Tensor:
        """Draw the next batch; take gradients and loss on it; return the loss."""
        self.batch = self.batches.next()
        take = self.bound.loss_and_grads(self.task)
        loss, self.grads, self.buffers = take(self.params, self.batch, self.buffers)
        return self.note(loss)

    def note(self, loss: Tensor) -> Tensor:
        """Take the loss of a step; read it unless that would make the host wait."""
        if self.reads_at_once:
            self.loss = float(loss)
        return loss

    def settle(self, losses: Sequence[Tensor]) -> list[float]:
        """Read the losses of the latest steps; the host waits for the device once.

        Returns:
            Their values, up to the first that shows a divergence.
        """
        values = read_numbers(losses)
        for count, self.loss in enumerate(values, start=1):
            if self.has_diverged:
                return values[:count]
        return values

    def advance(
        self, steps: int, after_step: Callable[[], object] | None = None
    ) -> list[float]:
        """Take steps and measure after each; fewer if the run ends.

        Args:
            steps: how many, at most.
            after_step: called after each step, before its loss is measured.

        Returns:
            The loss after each step, in nats, up to the first that shows a divergence.
        """
        losses: list[float] = []
        unread: list[Tensor] = []
        while len(losses) + len(unread) < steps and not self.is_over:
            self.step()
            if after_step is not None:
                after_step()
            unread.append(self.measure())
            if len(unread) == _READ_EVERY:
                losses += self.settle(unread)
                unread = []
        return losses + self.settle(unread)

    def skip(self, steps: int) -> None:
        """Take steps from which theta does not learn; fewer if the run ends."""
        self.advance(steps)

    def move(
        self,
        params: Params,
        grads: Params,
        state: State,
        buffers: Params,
        *,
        steps: int,
    ) -> None:
        """Go where a differentiated unroll of this run ended; its graph is released.

        Args:
            params: after the last step.
            grads: on the last batch drawn from `batches`.
            state: of the rule, the last step's gradient included.
            buffers: after the last batch.
            steps: how many were taken; their losses are settled.
        """
        self.params = {name: param.detach() for name, param in params.items()}
        self.grads = {name: grad.detach() for name, grad in grads.items()}
        self.state = {
            name: {key: item.detach() for key, item in record.items()}
            for name, record in state.items()
        }
        self.buffers = {name: item.detach() for name, item in buffers.items()}
        self.position += steps

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a new run of the same task needs to continue."""
        return {
            "seed": self.seed,
            "length": self.length,
            "position": self.position,
            "batches": self.batches.state_dict(),
            "params": self.params,
            "buffers": self.buffers,
            "state": self.state,
            "grads": self.grads,
            "loss": self.loss,
            "first_loss": self.first_loss,
            "inputs": self.batch.inputs,
            "targets": self.batch.targets,
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Continue where another run of the same task stopped."""
        self.seed, self.length = values["seed"], values["length"]
        self.position, self.loss = values["position"], values["loss"]
        self.first_loss = values["first_loss"]
        self.batches.load_state_dict(values["batches"])
        self.params, self.state = values["params"], values["state"]
        self.grads, self.buffers = values["grads"], values["buffers"]
        self.batch = type(self.batch)(values["inputs"], values["targets"])


def replay(
    bound: RuleOnGraph,
    taken: list[InnerStep],
    cotangents: list[Cotangent],
    *,
    share: float,
    generator: torch.Generator,
) -> None:
    """Add the meta-gradient of past updates to theta's `.grad`.

    A random subset of the steps is computed again with autograd and weighted by the
    inverse of its share, which leaves the expectation unchanged. Of the other steps not
    even the cotangents are asked for.

    Args:
        bound: the rule that took the steps.
        taken: what it read, one per step.
        cotangents: one per step.
        share: part of the steps to replay, in (0, 1].
        generator: draws the subset.
    """
    count = max(1, round(share * len(taken)))
    chosen = torch.randperm(len(taken), generator=generator)[:count].tolist()
    weight = len(taken) / count
    for index in sorted(chosen):
        step, cotangent = taken[index], cotangents[index]()
        updates = bound.updates(step.params, step.grads, step.state)
        torch.autograd.backward(
            list(updates.values()), [weight * cotangent[name] for name in updates]
        )
