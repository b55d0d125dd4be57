"""Random members of the park: their graph computes them, predictors respect it."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from benchmarks.generalization.data import park_graph
from l2o.companion import NetworkPredictor, collate_networks, park_predictor
from l2o.graph import permute_parameters, random_permutations
from optimizees.activations import build_activation
from optimizees.zoo.wild_cnn import WildCNN, draw_architecture

TOLERANCE = 1e-9
SEEDS = range(5)


def member(seed):
    """A network of the park with random weights, biases included, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = WildCNN(draw_architecture(generator)).double()
    with torch.no_grad():
        for param in model.parameters():
            noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            param.copy_(noise / max(1, param[0].numel()) ** 0.5)
    return model


def params_of(model):
    return {name: param.detach() for name, param in model.named_parameters()}


def compute(graph, params, images):
    """Run a network from its graph alone: blocks, ties, biases, activations."""
    values = {0: images}
    for place, group in enumerate(graph.groups[1:], start=1):
        sums = 0
        for block in graph.blocks:
            if block.target.group == place:
                weight, source = params[block.parameter], values[block.source.group]
                if block.cells:
                    padding = weight.shape[-1] // 2
                    sums = sums + functional.conv2d(source, weight, padding=padding)
                else:
                    sums = sums + source.mean((2, 3)) @ weight.T
        for node in graph.node_parameters:
            if node.neurons.group == place:
                bias = params[node.parameter]
                sums = sums + bias.view(-1, *(1,) * (sums.ndim - 2))
        for tie in graph.ties:
            if tie.target.group == place:
                added = torch.zeros_like(sums)
                source = values[tie.source.group]
                added[:, list(tie.target.index)] = source[:, list(tie.source.index)]
                sums = sums + added
        for operation in group.operations:
            name = "identity" if operation.name == "none" else operation.name
            sums = build_activation(name)(sums)
        values[place] = sums
    return values[len(graph.groups) - 1]


@pytest.fixture(scope="module")
def members():
    models = [member(seed) for seed in SEEDS]
    skips = [layer.skip for model in models for layer in model.architecture.layers]
    assert any(skip is not None for skip in skips)
    return models


@pytest.fixture(scope="module")
def graphs(members):
    return [park_graph(model.architecture) for model in members]


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 9, 9, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module", params=["ng_gnn", "ng_t"])
def predictor(request):
    """A predictor of the paper's size."""
    torch.manual_seed(0)
    return NetworkPredictor(park_predictor(request.param)).double().eval()


def permuted(graph, model, generator):
    orders = random_permutations(graph, generator)
    return permute_parameters(graph, orders, params_of(model))


class TestTheGraph:
    def test_it_computes_the_network(self, members, graphs, images):
        for model, graph in zip(members, graphs, strict=True):
            found = compute(graph, params_of(model), images)
            torch.testing.assert_close(found, model(images), rtol=0, atol=TOLERANCE)

    def test_its_permutations_leave_the_network_as_it_is(self, members, graphs, images):
        generator = torch.Generator().manual_seed(2)
        for model, graph in zip(members, graphs, strict=True):
            moved = permuted(graph, model, generator)
            found = torch.func.functional_call(model, moved, (images,))
            torch.testing.assert_close(found, model(images), rtol=0, atol=TOLERANCE)

    def test_without_its_ties_it_computes_something_else(self, members, graphs, images):
        seen = 0
        for model, graph in zip(members, graphs, strict=True):
            if graph.ties:
                seen += 1
                found = compute(replace(graph, ties=()), params_of(model), images)
                assert (found - model(images)).abs().max() > 1e-3
        assert seen


@pytest.mark.slow
class TestPredictors:
    def test_the_order_of_channels_does_not_matter(self, predictor, members, graphs):
        generator = torch.Generator().manual_seed(3)
        params = [params_of(model) for model in members]
        moved = [
            permuted(graph, model, generator)
            for graph, model in zip(graphs, members, strict=True)
        ]
        before = predictor.logits(collate_networks(graphs, params))
        after = predictor.logits(collate_networks(graphs, moved))
        torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE)

    def test_the_company_does_not_matter(self, predictor, members, graphs):
        params = [params_of(model) for model in members]
        together = predictor.logits(collate_networks(graphs, params))
        for graph, own, found in zip(graphs, params, together, strict=True):
            alone = predictor.logits(collate_networks([graph], [own]))
            torch.testing.assert_close(alone[0], found, rtol=0, atol=TOLERANCE)

    def test_what_is_no_symmetry_matters(self, predictor, members, graphs):
        """Outputs are told apart, and so are channels whose skip stays behind."""
        for graph, model in zip(graphs, members, strict=True):
            params = params_of(model)
            turned = params | {"head.weight": params["head.weight"].flip(0)}
            before = predictor.logits(collate_networks([graph], [params]))
            after = predictor.logits(collate_networks([graph], [turned]))
            assert (after - before).abs().max() > 1e-6

    def test_activations_matter_unless_left_out(self, predictor, members):
        model = members[0]
        layers = model.architecture.layers
        others = tuple(
            replace(layer, activation="tanh" if layer.activation != "tanh" else "relu")
            for layer in layers
        )
        other = replace(model.architecture, layers=others)
        params = params_of(model)
        answers = [
            predictor.logits(collate_networks([park_graph(architecture)], [params]))
            for architecture in (model.architecture, other)
        ]
        assert (answers[0] - answers[1]).abs().max() > 1e-6
