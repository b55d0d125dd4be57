"""Hidden neurons may change places: answers stay, edits move along."""

from dataclasses import replace

import pytest
import torch

from l2o.companion import (
    NetworkClassifier,
    NetworkEditor,
    NetworkPredictor,
    collate_networks,
    stack_networks,
)
from l2o.graph import permute_parameters, random_permutations

TOLERANCE = 1e-9


def test_a_classifier_does_not_see_the_order_of_neurons(
    case, backbone, build, mlps, permuted, gap
):
    inputs, switches = case
    graph, params, sizes = mlps(inputs)
    model = build(NetworkClassifier, backbone, **sizes, **switches)
    before = model(stack_networks(graph, params))
    after = model(stack_networks(graph, permuted(graph, params)))
    assert gap(after, before) < TOLERANCE


def test_an_edit_moves_with_the_neurons(case, backbone, build, mlps, permuted, gap):
    inputs, switches = case
    graph, params, sizes = mlps(inputs)
    model = build(NetworkEditor, backbone, **sizes, **switches)
    expected = permuted(graph, model(stack_networks(graph, params)))
    found = model(stack_networks(graph, permuted(graph, params)))
    for name, value in expected.items():
        assert gap(found[name], value) < TOLERANCE, name


@pytest.mark.parametrize("inputs", [1, 2, 3])
@pytest.mark.parametrize("kind", [NetworkClassifier, NetworkEditor])
def test_probes_keep_the_symmetry(
    kind, inputs, backbone, build, mlps, evaluate, permuted, gap
):
    graph, params, sizes = mlps(inputs)
    model = build(kind, backbone, **sizes, num_probes=4, evaluate=evaluate)
    found = model(stack_networks(graph, permuted(graph, params)))
    before = model(stack_networks(graph, params))
    if kind is NetworkClassifier:
        assert gap(found, before) < TOLERANCE
    else:
        for name, expected in permuted(graph, before).items():
            assert gap(found[name], expected) < TOLERANCE, name


def test_a_predictor_does_not_see_the_order_of_channels(
    backbone, switches, build, park, gap
):
    graphs, params, sizes = park
    model = build(NetworkPredictor, backbone, **sizes, **switches)
    generator = torch.Generator().manual_seed(2)
    moved = [
        permute_parameters(graph, random_permutations(graph, generator), own)
        for graph, own in zip(graphs, params, strict=True)
    ]
    before = model.logits(collate_networks(graphs, params))
    after = model.logits(collate_networks(graphs, moved))
    assert gap(after, before) < TOLERANCE


def test_an_edit_of_kernels_moves_with_the_channels(
    backbone, build, park, permuted, gap
):
    graphs, _, sizes = park
    graph = next(graph for graph in graphs if graph.ties)
    generator = torch.Generator().manual_seed(3)
    params = {
        name: torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        for name, shape in graph.shapes.items()
    }
    model = build(NetworkEditor, backbone, **sizes)
    expected = permuted(graph, model(stack_networks(graph, params)))
    found = model(stack_networks(graph, permuted(graph, params)))
    for name, value in expected.items():
        assert found[name].shape == params[name].shape
        assert gap(found[name], value) < TOLERANCE, name


class TestTheLawCanFail:
    """What is not a symmetry changes answers, so equal answers mean something."""

    @pytest.mark.parametrize("role", ["input", "output"])
    def test_inputs_and_outputs_are_told_apart(
        self, role, backbone, build, mlps, permuted, gap
    ):
        graph, params, sizes = mlps(3)
        orders = [
            torch.arange(group.size).flip(0)
            if group.role == role
            else torch.arange(group.size)
            for group in graph.groups
        ]
        moved = permuted(graph, params, orders)
        model = build(NetworkClassifier, backbone, **sizes)
        before = model(stack_networks(graph, params))
        assert gap(model(stack_networks(graph, moved)), before) > 1e-3

    def test_neurons_that_leave_their_biases_behind(
        self, backbone, build, mlps, permuted, gap
    ):
        graph, params, sizes = mlps(2)
        moved = permuted(graph, params)
        torn = {
            name: params[name] if name.endswith("bias") else value
            for name, value in moved.items()
        }
        model = build(NetworkClassifier, backbone, **sizes)
        before = model(stack_networks(graph, params))
        assert gap(model(stack_networks(graph, torn)), before) > 1e-3

    def test_biases_that_read_a_neighbour(self, backbone, build, mlps, permuted, gap):
        """The released code's fault: biases read as many nodes off as inputs exist."""
        graph, params, sizes = mlps(2)
        model = build(NetworkEditor, backbone, **sizes)
        read = model.readout.forward

        def read_off(batch, wiring, states):
            nodes = states.nodes.unflatten(0, (len(batch), -1)).roll(2, 1)
            return read(batch, wiring, replace(states, nodes=nodes.flatten(0, 1)))

        model.readout.forward = read_off
        expected = permuted(graph, model(stack_networks(graph, params)))
        found = model(stack_networks(graph, permuted(graph, params)))
        assert gap(found["1.bias"], expected["1.bias"]) > 1e-3
        assert gap(found["1.weight"], expected["1.weight"]) < TOLERANCE

    def test_a_statistic_an_entry(self, backbone, build, mlps, permuted, gap):
        """Standardising entry by entry, as others do, tells hidden neurons apart."""
        graph, params, sizes = mlps(2)
        model = build(NetworkClassifier, backbone, **sizes)
        generator = torch.Generator().manual_seed(4)
        means = {
            name: torch.randn(value.shape[1:], generator=generator, dtype=value.dtype)
            for name, value in params.items()
        }

        def answer(given):
            shifted = {name: value - means[name] for name, value in given.items()}
            return model(stack_networks(graph, shifted))

        assert gap(answer(permuted(graph, params)), answer(params)) > 1e-3
