"""Probes are run through modules, whatever they are."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from l2o import neural_graph
from l2o.companion import (
    ModuleValues,
    NetworkClassifier,
    collate_networks,
    infer_config,
    stack_networks,
)
from l2o.graph import permute_parameters, random_permutations


class Sine(nn.Module):
    def forward(self, values):
        return values.sin()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, values):
        hidden = self.first(values).relu()
        return self.last((hidden + self.second(hidden)).tanh())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 3, batch_first=True)
        self.last = nn.Linear(3, 2)

    def forward(self, values):
        tokens = values[:, None]
        return self.last(self.attention(tokens, tokens, tokens)[0][:, 0])


def cnn(activation):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation),
        *(nn.Conv2d(4, 5, 3, padding=1), activation, nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(5 * 9, 2)),
    )


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), Sine(), nn.Linear(4, 2)), ()),
    "residual": (Residual, ()),
    "cnn": (lambda: cnn(nn.ReLU()), (8, 8)),
}


@pytest.fixture(params=MODELS)
def case(request):
    build, shape = MODELS[request.param]
    torch.manual_seed(0)
    model = build().double()
    model(torch.randn(6, 3, *shape, dtype=torch.float64))  # batch norms take statistics
    model.eval()
    return model, neural_graph(model, torch.zeros(2, 3, *shape).double()), shape


def reader(graph, model, shape):
    torch.manual_seed(0)
    config = infer_config(graph, width=8, layers=2, num_probes=3, probe_shape=shape)
    evaluate = ModuleValues((graph, model))
    return NetworkClassifier(config, num_classes=2, evaluate=evaluate).double().eval()


def test_values_are_those_of_the_networks(case):
    model, graph, shape = case
    states = [dict(model.state_dict()) for _ in range(2)]
    states[1] = {
        name: value * 1.5 if value.is_floating_point() else value
        for name, value in states[1].items()
    }
    batch = collate_networks([graph] * 2, states)
    points = torch.randn(5, 3, *shape, dtype=torch.float64)
    values = ModuleValues((graph, model))(graph, batch.params, points)
    assert [tuple(x.shape) for x in values] == [(2, 5, g.size) for g in graph.groups]
    outputs = [
        value
        for value, group in zip(values, graph.groups, strict=True)
        if group.role == "output"
    ]
    expected = torch.stack([functional_call(model, own, points) for own in states])
    torch.testing.assert_close(outputs[0], expected)


def test_hidden_neurons_are_seen_after_their_activation():
    model = MODELS["mlp"][0]()
    graph = neural_graph(model, torch.zeros(2, 3))
    points = torch.randn(5, 3)
    params = {name: value.detach()[None] for name, value in model.named_parameters()}
    _, hidden, _ = ModuleValues((graph, model))(graph, params, points)
    torch.testing.assert_close(hidden[0], model[0](points).sin())


def test_pixels_of_a_channel_are_averaged():
    model = cnn(nn.ReLU()).eval()
    graph = neural_graph(model, torch.zeros(2, 3, 8, 8))
    points = torch.randn(5, 3, 8, 8)
    batch = stack_networks(graph, {n: v[None] for n, v in model.state_dict().items()})
    values = ModuleValues((graph, model))(graph, batch.params, points)
    last = [value for value in values if value.shape[2] == 5]
    torch.testing.assert_close(last[0][0], model[:6](points).mean((2, 3)))


def test_answers_do_not_depend_on_the_order_of_hidden_neurons(case):
    model, graph, shape = case
    state = model.state_dict()
    orders = random_permutations(graph, torch.Generator().manual_seed(1))
    network = reader(graph, model, shape)
    folded = stack_networks(graph, {name: v[None] for name, v in state.items()})
    params = {name: value[0] for name, value in folded.params.items()}
    moved = permute_parameters(graph, orders, params)
    assert any(not torch.equal(moved[name], params[name]) for name in params)
    found, expected = (
        network(
            stack_networks(
                graph, {n: v[None] for n, v in own.items()}, running_statistics=False
            )
        )
        for own in (moved, params)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_probes_learn(case):
    model, graph, shape = case
    network = reader(graph, model, shape)
    batch = stack_networks(graph, {n: v[None] for n, v in model.state_dict().items()})
    network(batch).square().sum().backward()
    points = network.encoder.inputs.probes.points
    assert points.shape == (3, 3, *shape)
    assert bool((points.grad != 0).any())


def test_architectures_may_differ():
    models = [cnn(nn.ReLU()).eval(), cnn(nn.Tanh()).eval()]
    graphs = [neural_graph(model, torch.zeros(2, 3, 8, 8)) for model in models]
    config = infer_config(graphs, width=8, layers=2, num_probes=3, probe_shape=(8, 8))
    evaluate = ModuleValues(*zip(graphs, models, strict=True))
    network = NetworkClassifier(config, num_classes=2, evaluate=evaluate).eval()
    states = [models[0].state_dict()] * 2  # the same numbers in both
    both = network(collate_networks(graphs, states))
    alone = [network(collate_networks([graph], states[:1])) for graph in graphs]
    torch.testing.assert_close(both, torch.cat(alone))
    assert not torch.allclose(both[0], both[1])
    with pytest.raises(ValueError, match="Pass each graph with its module"):
        ModuleValues((graphs[0], models[0]))(graphs[1], {}, torch.zeros(1, 3, 8, 8))


def test_an_equal_graph_is_as_good():
    model = MODELS["mlp"][0]()
    graphs = [neural_graph(model, torch.zeros(2, 3)) for _ in range(2)]
    params = {name: value.detach()[None] for name, value in model.named_parameters()}
    evaluate, points = ModuleValues((graphs[0], model)), torch.randn(5, 3)
    found, expected = (evaluate(graph, params, points) for graph in graphs[::-1])
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)


def test_what_no_module_reads_as_a_whole_is_refused():
    model = Attention()
    graph = neural_graph(model, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="a module has as a whole"):
        ModuleValues((graph, model))
