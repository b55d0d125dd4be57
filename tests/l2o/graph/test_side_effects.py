"""What a second forward pass must leave as it found it."""

# ruff: noqa: NPY002  (the global generator of numpy is what is tested)

import collections
import functools
import io
import random

import numpy as np
import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph.trace import NetworkTrace, RandomState
from l2o.graph.trace.isolation import isolated


class Memory:
    """A state object that is passed in."""

    def __init__(self):
        self.hidden, self.calls, self.past = None, 0, {"lengths": [[1]]}


class Slotted:
    __slots__ = ("count", "late")

    def __init__(self):
        self.count = 0


class Busy(nn.Module):
    """Changes all that it can reach when it runs."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 8), nn.Linear(8, 1)
        self.norm = nn.BatchNorm1d(4)
        self.generator = torch.Generator().manual_seed(0)
        self.rng, self.legacy = np.random.default_rng(0), np.random.RandomState(0)
        self.dice = random.Random(0)
        self.log = {"sizes": [], "queue": collections.deque(maxlen=3), "seen": set()}
        self.slotted, self.statistics = Slotted(), np.zeros(3)
        self.last = None

    def forward(self, values, memory):
        self.log["sizes"].append(len(values))
        self.log["queue"].append(len(values))
        self.log["seen"].add(len(values))
        self.slotted.count += 1
        self.slotted.late = 1
        self.statistics += 1
        draws = [np.random.random(), self.rng.random(), self.legacy.random()]
        draws += [random.random(), self.dice.random(), float(torch.rand(()))]
        noise = torch.randn(values.shape, generator=self.generator)
        self.last = self.norm(values) + 0.1 * noise + min(draws) * 0
        memory.past["lengths"][0].append(len(values))
        memory.hidden = self.cell(self.last, memory.hidden)
        memory.calls += 1
        self.out.weight.requires_grad_(False)
        return self.out(memory.hidden)


def fingerprint(model, memory):
    """Return all that `Busy` changes, in a form that compares."""
    return (
        np.random.random(),
        *(torch.rand(()).item(), torch.rand((), generator=model.generator).item()),
        *(model.rng.random(), model.legacy.random(), model.dice.random()),
        repr(model.log),
        *(model.slotted.count, hasattr(model.slotted, "late")),
        model.statistics.tolist(),
        *(id(model.last), id(memory.hidden), memory.calls, repr(memory.past)),
        [(p.requires_grad, p._version) for p in model.parameters()],
        [(b.tolist(), b._version) for b in model.buffers()],
    )


def surroundings(run):
    """Return the fingerprint after `run(model, memory, values)`, from fixed seeds."""
    with torch.random.fork_rng(devices=[]):
        state = np.random.get_state()
        torch.manual_seed(0)
        np.random.seed(0)
        model, memory = Busy(), Memory()
        first = model.last, memory.hidden
        run(model, memory, torch.ones(16, 4))
        found = fingerprint(model, memory)
        np.random.set_state(state)
    return found, first


def trace_busy(model, memory, values):
    assert neural_graph(model, values, memory).placed_share == 1


def test_a_trace_changes_nothing():
    assert surroundings(trace_busy) == surroundings(lambda *_: None)


def test_the_law_can_fail():
    ran = surroundings(lambda model, memory, values: model(values, memory))
    idle = surroundings(lambda *_: None)
    assert sum(a != b for a, b in zip(ran[0], idle[0], strict=True)) > 10


GATHERED = []


def collect(found, module, args, output):
    found.append(output)


class Collector:
    def __init__(self):
        self.found = []

    def __call__(self, module, args, output):
        self.found.append(output)

    def keep(self, module, args, output):
        self.found.append(output)


@pytest.mark.parametrize("kind", ["closure", "global", "partial", "method", "object"])
def test_what_hooks_collect_stays(kind):
    model, found, collector = nn.Linear(3, 2), [], Collector()
    GATHERED.clear()
    hook = {
        "closure": lambda module, args, output: found.append(output),
        "global": lambda module, args, output: GATHERED.append(output),
        "partial": functools.partial(collect, found),
        "method": collector.keep,
        "object": collector,
    }[kind]
    model.register_forward_hook(hook)
    output = model(torch.randn(5, 3))
    neural_graph(model, torch.randn(5, 3))
    lists = [GATHERED, found, collector.found]
    assert [len(x) for x in lists] in ([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert all(x is output for items in lists for x in items)


class Doubling:
    def __call__(self, module, args, output):
        return 2 * output


@pytest.mark.parametrize(
    ("hook", "calls"),
    [
        (lambda module, args, output: output.neg(), 1),
        (functools.partial(lambda by, module, args, output: by * output, 2), 1),
        (Doubling(), 1),
    ],
    ids=["lambda", "partial", "object"],
)
def test_a_hook_that_changes_the_output_is_part_of_the_network(hook, calls):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].register_forward_hook(hook)
    graph = neural_graph(model, torch.randn(5, 3))
    assert len(graph.groups[1].operations) == calls


def test_a_hook_that_only_observes_is_off():
    written = io.StringIO()  # which cannot be put back

    def observe(module, args, output):
        if output.dim():
            written.write("called")

    model = nn.Linear(3, 2)
    model.register_forward_hook(observe)
    neural_graph(model, torch.randn(5, 3))
    assert written.getvalue() == ""


def test_gradients_and_the_graph_of_autograd_stay():
    class Differentiates(nn.Linear):
        def forward(self, values):
            values = values.detach().requires_grad_()
            super().forward(values).sum().backward()
            return super().forward(values.grad)

    model = Differentiates(2, 2)
    grad = torch.ones(2, 2)
    model.weight.grad = grad
    neural_graph(model, torch.randn(3, 2))
    assert model.weight.grad is grad
    assert grad.tolist() == [[1, 1], [1, 1]]
    assert model.bias.grad is None


def test_buffers_still_serve_a_backward_pass_that_saved_them():
    model = nn.BatchNorm1d(3).eval()
    values = torch.randn(4, 3, requires_grad=True)
    loss = (model(values) * model.running_var.clone()).sum()
    neural_graph(model.train(), torch.randn(4, 3))
    loss.backward()  # would raise had a saved buffer's version moved
    assert values.grad is not None


def test_a_failing_pass_changes_nothing_either():
    state = []

    class Fails(nn.Linear):
        def forward(self, values):
            state.append(1)
            self.weight.data.fill_(0)
            raise RuntimeError("no")

    model = Fails(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="no"):
        neural_graph(model, torch.randn(2, 2))
    assert state == []
    # `.data` hides the write from autograd's counter, not from the trace
    assert torch.equal(model.weight, before)


def test_containers_that_stay_the_same_are_not_touched():
    class Counting(dict):
        def clear(self):
            raise AssertionError("touched")

    model = nn.Linear(2, 2)
    model.table = Counting(a=1)
    with isolated(model):
        pass
    assert model.table == {"a": 1}


class TestRandomState:
    def test_replays_chance(self):
        """Layers that the real pass dropped are dropped again, others are not."""

        class Drops(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(8))

            def forward(self, values):
                for layer in self.layers:
                    if np.random.random() < 0.5 and random.random() < 2:
                        values = layer(values)
                return values

        model, values = Drops(), torch.randn(4, 3)
        state = RandomState.capture(model)
        used = [np.random.random() < 0.5 for _ in range(8)]
        passes = NetworkTrace(dict(model.named_parameters()))
        passes.run(model, (values,), {}, random_state=state)
        missing = {item.parameter for item in passes.graph().unplaced}
        expected = {f"layers.{k}.weight" for k in range(8) if not used[k]}
        assert {name for name in missing if "weight" in name} == expected
        assert 0 < len(expected) < 8

    def test_of_all_generators(self):
        class Holder(nn.Module):
            def __init__(self):
                super().__init__()
                self.generators = None
                self.torch, self.numpy = torch.Generator(), np.random.default_rng(1)
                self.python, self.legacy = random.Random(1), np.random.RandomState(1)

        def draw(model):
            return (
                torch.rand((), generator=model.torch).item(),
                *(model.numpy.random(), model.python.random(), model.legacy.random()),
                *(np.random.random(), torch.rand(()).item()),
            )

        model = Holder()
        state = RandomState.capture(model)
        first = draw(model)
        with state.replayed():
            assert draw(model) == first
        assert draw(model) != first
