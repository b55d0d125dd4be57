"""An inner step keeps an accelerator busy: no wait for it, few launches.

Everything lies on the meta device, which like an accelerator is apart from the host.
"""

from contextlib import suppress
from functools import partial

import pytest
import torch
from device_work import Waits

from benchmarks.launches import launches_of_inner_step
from l2o import load_rule, neural_graph
from l2o.rule.checkpoint import DEFAULT_RULE
from meta_train import evolution, unroll
from meta_train.estimator_config import (
    EvolutionConfig,
    FirstOrderConfig,
    ImitationConfig,
    OneStepConfig,
    TBPTTConfig,
)
from meta_train.estimators import add_meta_gradient, start_problem
from meta_train.unroll import InnerRun, ProblemStart, RuleOnGraph
from optimizees import ConvNet, FunctionalTask, image_task
from optimizees.data.images import ImageData

META = torch.device("meta")
STEPS = 2
ESTIMATORS = {
    "one_step": OneStepConfig(),
    "first_order": FirstOrderConfig(window=STEPS, objective="mean"),
    "imitation": ImitationConfig(replay=0.5),
    "tbptt": TBPTTConfig(window=STEPS, second_order=False),
    "nres": EvolutionConfig(pairs=1),
    "stacked es": EvolutionConfig(kind="es", pairs=2, stacked=True),
}


def on_meta(build, size, rule):
    """Return a task and a shipped rule on its graph, all without values."""
    images = ImageData(
        images=torch.zeros(400, 1, size, size),
        labels=torch.zeros(400, dtype=torch.int64),
        source="no images",
    )
    task = FunctionalTask(image_task("cnn", build, images.to(META), batch_size=128))
    graph = neural_graph(build(), torch.zeros(2, 1, size, size))
    rule = load_rule(rule).to(META)
    return task, RuleOnGraph(rule, task, compile=False, graph=graph)


@pytest.fixture
def reads(monkeypatch):
    """Pretend that every number read is one; collect how many were, each time."""
    asked = []

    def read(items):
        asked.append(len(items))
        return [1.0] * len(items)

    def on_host(items):
        asked.append(len(items))
        return torch.zeros(len(items), *items[0].shape)

    monkeypatch.setattr(unroll, "read_numbers", read)
    monkeypatch.setattr(evolution, "_on_host", on_host)
    return asked


class TestWaits:
    @pytest.fixture(
        params=[
            pytest.param("ng-gnn", marks=pytest.mark.slow),
            *("ng-gnn-neurons", "ff", "base"),
        ]
    )
    def problem(self, request, reads):
        return on_meta(partial(ConvNet, 1, (3, 4), image_size=7), 7, request.param)

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_there_is_none_within_a_window(self, problem, reads, name):
        """Losses are read once, at its end. The first one may build what is kept."""
        config = ESTIMATORS[name]
        run = start_problem(config, ProblemStart(*problem, seed=0, length=100))
        generator = torch.Generator().manual_seed(0)
        add_meta_gradient(config, run, STEPS, generator)
        reads.clear()
        with Waits() as waits:
            losses = add_meta_gradient(config, run, STEPS, generator)
        assert len(losses) == STEPS
        assert set(reads) == {STEPS}
        assert waits.found == []

    @pytest.mark.parametrize(
        ("name", "wait"),
        [
            ("_local_scalar_dense", lambda item: item.sum().item()),
            ("_local_scalar_dense", lambda item: bool(item.sum() > 0)),
            ("a blocking copy", lambda item: item.cpu()),
            ("a blocking copy", lambda item: item.copy_(torch.ones(2))),
            ("nonzero", lambda item: item.nonzero()),
            ("equal", lambda item: torch.equal(item, item)),
            ("nonzero", lambda item: item[item > 0]),
        ],
    )
    def test_the_law_can_fail(self, name, wait):
        item = torch.zeros(2, device=META)
        with Waits() as waits, suppress(RuntimeError):  # meta holds no values
            wait(item)
        assert waits.found == [name]

    def test_what_does_not_wait_passes(self):
        with Waits() as waits:
            torch.zeros(2).to(META, non_blocking=True)
            torch.zeros(2, device=META).copy_(torch.ones(2), non_blocking=True)
            torch.ones(2).sum().item()
        assert waits.found == []


class TestLaunches:
    """Of one step of the FashionMNIST CNN in the paper's size."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "plain", "with_autograd"),
        [
            (DEFAULT_RULE, 250, 420),
            ("ng-gnn-neurons", 330, 660),
            ("ff", 660, 700),
            ("ng-gnn", 1150, 2100),
        ],
    )
    def test_they_are_few(self, name, plain, with_autograd):
        found = launches_of_inner_step(load_rule(name))
        assert found[0] <= plain
        assert found[0] < found[1] <= with_autograd


class TestReadingLate:
    """What an accelerator computes: losses read together, divergence found late."""

    @pytest.fixture(params=[0.01, 1e4], ids=["sound", "diverging"])
    def lr(self, request):
        return request.param

    @pytest.fixture
    def toy(self, lr):
        images = ImageData(
            images=torch.randn(64, 1, 7, 7, generator=torch.Generator().manual_seed(0)),
            labels=torch.arange(64) % 10,
            source="noise",
        )
        build = partial(ConvNet, 1, (3,), image_size=7)
        task = FunctionalTask(image_task("cnn", build, images, batch_size=16))
        rule = load_rule("ff")
        rule.requires_grad_()
        bound = RuleOnGraph(rule, task, compile=False)
        plain = bound.step
        bound.step = lambda *args, **kwargs: plain(*args, **{**kwargs, "lr": lr})
        return task, bound

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_it_is_the_same_bit_for_bit(self, toy, name, lr):
        config = ESTIMATORS[name]
        found = []
        for at_once in (True, False):
            run = start_problem(config, ProblemStart(*toy, seed=0, length=30))
            run.reads_at_once = at_once
            toy[1].rule.zero_grad()
            losses = add_meta_gradient(
                config, run, 12, torch.Generator().manual_seed(0)
            )
            grads = [weight.grad for weight in toy[1].rule.parameters()]
            found.append((losses, run.has_diverged, grads))
        assert found[0][:2] == found[1][:2]
        assert found[0][1] == (lr > 1)
        for grad, other in zip(found[0][2], found[1][2], strict=True):
            assert (grad is None) == (other is None)
            assert grad is None or torch.equal(grad, other)

    def test_long_runs_are_the_same(self, toy, lr, monkeypatch):
        monkeypatch.setattr(unroll, "_READ_EVERY", 5)
        found = []
        for at_once in (True, False):
            run = InnerRun(ProblemStart(*toy, seed=0, length=12))
            run.reads_at_once = at_once
            found.append((run.advance(12), run.has_diverged, run.loss))
        assert found[0] == found[1]
        assert found[0][1] == (lr > 1)
