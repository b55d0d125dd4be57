"""Several passes of one network: later ones complete the graph."""

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph.trace import NetworkTrace
from tests.l2o.graph.test_trace_truth import distance


class Experts(nn.Module):
    """Sends each sample to one expert, by the sign of its first entry."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, values):
        hidden = self.first(values).relu()
        found = torch.zeros_like(hidden)
        which = (values[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            rows = (which == number).nonzero()[:, 0]
            if len(rows):
                found = found.index_add(0, rows, expert(hidden[rows]).relu())
        return self.last(hidden + found)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Experts().double()


ONE = torch.tensor([[1.0, 0.3, 0.2], [2.0, 0.1, 0.4]], dtype=torch.float64)


def run(model, *batches):
    passes = NetworkTrace(dict(model.named_parameters()))
    for batch in batches:
        passes.run(model, (batch,), {})
    return passes


def test_the_whole_batch_is_used_where_two_samples_do_not_reach(model):
    batch = torch.cat([ONE, -ONE])
    graph = neural_graph(model, batch)
    assert graph.placed_share == 1
    assert max(distance(model, batch, graph, seed) for seed in range(3)) < 1e-9


def test_a_later_pass_completes_the_graph(model):
    first = run(model, ONE)
    assert not first.is_complete
    missing = {item.parameter for item in first.graph().unplaced}
    assert missing == {"experts.0.weight", "experts.0.bias"}
    both = run(model, ONE, -ONE)
    assert both.is_complete
    graph = both.graph()
    assert graph.placed_share == 1
    batch = torch.cat([ONE, -ONE])
    assert max(distance(model, batch, graph, seed) for seed in range(3)) < 1e-9
    whole = neural_graph(model, batch)
    assert len(graph.groups) == len(whole.groups)
    assert len(graph.blocks) == len(whole.blocks)
    assert len(graph.symmetries) == len(whole.symmetries)


def test_the_same_pass_again_adds_nothing(model):
    once, twice = run(model, ONE).graph(), run(model, ONE, ONE).graph()
    assert once == twice


def test_a_pass_that_fails_adds_nothing(model):
    passes = run(model, ONE)
    before = passes.graph()
    with pytest.raises(RuntimeError):
        passes.run(model, (torch.randn(2, 5, dtype=torch.float64),), {})
    assert passes.graph() is before


def test_it_holds_no_tensor_of_the_network(model):
    passes = run(model, ONE)
    assert all(tensor.is_meta for tensor in passes._tracer.parameters)
