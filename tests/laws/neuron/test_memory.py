"""How much memory a step takes beyond parameters, gradients and state."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import l2o
from benchmarks.step_cost.cell import Cell, run_cell
from l2o.rule import neuron_rule
from optimizees import MLP


class Live(TorchDispatchMode):
    """Tells the most bytes of tensors that were alive at once."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.alive = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.alive[storage.data_ptr()] = (
                        StorageWeakRef(storage),
                        storage.nbytes(),
                    )
        self.alive = {
            place: item for place, item in self.alive.items() if not item[0].expired()
        }
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return found


def peak_per_parameter(rule):
    """Return the bytes of a step over those of the parameters."""
    model = MLP((350, *[350] * 16, 10))
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    graph = l2o.neural_graph(model, torch.zeros(2, 350))
    optimizer = l2o.NeuralGraphOpt(model.named_parameters(), rule=rule, graph=graph)
    for _ in range(2):
        optimizer.step()
    state = [value for item in optimizer.state.values() for value in item.values()]
    params = list(model.parameters())
    with Live([*params, *(param.grad for param in params), *state]) as live:
        optimizer.step()
    return live.peak / sum(param.nbytes for param in params)


@pytest.mark.parametrize("rule", ["base", "ng-gnn-neurons"])
def test_a_step_takes_little_more_than_its_updates(rule):
    assert 1 <= peak_per_parameter(rule) <= 1.5


def test_the_bound_can_fail(monkeypatch):
    """Here updates are new tensors beside the directions."""
    monkeypatch.setattr(neuron_rule, "multiplied", torch.mul)
    assert peak_per_parameter("base") > 1.5


@pytest.mark.slow
def test_resnet_18():
    """As `l2o benchmark step-cost` measures it, with all that malloc holds."""
    cell = Cell(
        network="resnet-18",
        subject="base",
        device="cpu",
        threads=1,
        repetitions=1,
        seconds=20.0,
        memory_bytes=None,
    )
    row = run_cell(cell, 300)
    assert row["peak_bytes"] <= 1.7 * 4 * row["num_parameters"]
