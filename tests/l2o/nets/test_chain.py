import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.nets.chain import find_chain, require_chain

LAYERS = {
    "mlp": [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)],
    "cnn": [nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, (1, 2)), nn.Linear(5, 3)],
    "flattened": [nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3)],
    "single": [nn.Linear(3, 2)],
}


@pytest.fixture(params=LAYERS)
def model(request):
    return nn.Sequential(*LAYERS[request.param])


def test_layers_come_in_order():
    chain = find_chain(neural_graph(nn.Sequential(*LAYERS["cnn"])))
    assert (chain.depth, chain.sizes, chain.num_cells) == (3, (2, 4, 5, 3), (9, 2, 1))
    chain = find_chain(neural_graph(nn.Sequential(*LAYERS["flattened"])))
    assert (chain.sizes, chain.num_cells) == ((1, 2, 3), (9, 36))
    assert [place is None for place in chain.places()] == [False] * 4


@pytest.mark.parametrize("channels", [(), (1,), (2,)])
def test_collecting_is_the_inverse_of_laying(model, channels):
    generator = torch.Generator().manual_seed(0)
    chain = find_chain(neural_graph(model))
    batch = {
        name: torch.randn(5, *shape, *channels, generator=generator)
        for name, shape in chain.graph.shapes.items()
    }
    laid = chain.lay(batch)
    for layer, (weight, bias) in enumerate(zip(laid[::2], laid[1::2], strict=True)):
        source, target = chain.sizes[layer : layer + 2]
        count = channels[0] if channels else 1
        cells = chain.num_cells[layer]
        assert weight.shape == (5, target, source, cells, count)
        assert bias is None or bias.shape == (5, target, 1, count)
    found = chain.collect(laid)
    assert list(found) == list(chain.graph.shapes)
    for name, values in found.items():
        expected = batch[name][..., 0] if channels == (1,) else batch[name]
        torch.testing.assert_close(values, expected, rtol=0, atol=0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, inputs):
        return inputs + self.layer(inputs)


class Twice(Residual):
    def forward(self, inputs):
        return self.layer(self.layer(inputs).tanh())


class Fork(Residual):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(3, 2)

    def forward(self, inputs):
        return self.layer(inputs), self.other(inputs)


NO_CHAINS = {
    "norm": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    "groups": nn.Sequential(
        nn.Linear(3, 4), nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1, groups=2)
    ),
    "residual": Residual(),
    "tied": Twice(),
    "fork": Fork(),
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_other_graphs_are_none(name):
    graph = neural_graph(NO_CHAINS[name], torch.zeros(2, 3))
    assert find_chain(graph) is None
    with pytest.raises(ValueError, match=r"^NFN needs a plain chain .* Use NG-GNN"):
        require_chain(graph, "NFN")


def test_nor_are_tensors_whose_place_is_in_doubt():
    assert find_chain(neural_graph([torch.zeros(3, 4), torch.zeros(7, 5)])) is None


def test_long_chains_are_refused_where_there_is_a_limit():
    graph = neural_graph(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))))
    assert require_chain(graph, "NFN", 3).depth == 3
    with pytest.raises(ValueError, match=r"at most 2 of them; got 3 layers\. Use NG"):
        require_chain(graph, "NFN", 2)
