import itertools

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import Neurons, Symmetry
from optimizees import MLP, cifar_cnn, fashion_cnn


def sizes(graph):
    return [(group.role, group.size) for group in graph.groups]


def wiring(graph):
    return [
        (block.parameter, block.source.group, block.target.group, block.cells)
        for block in graph.blocks
    ]


def owners(graph):
    return {node.parameter: node.neurons.group for node in graph.node_parameters}


class TestChains:
    def test_an_mlp_is_placed_whole(self):
        graph = neural_graph(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
        assert sizes(graph) == [("input", 4), ("hidden", 8), ("output", 3)]
        assert wiring(graph) == [("0.weight", 0, 1, ()), ("2.weight", 1, 2, ())]
        assert owners(graph) == {"0.bias": 1, "2.bias": 2}
        assert graph.placed_share == 1.0
        assert not graph.unplaced

    def test_hidden_neurons_are_exchangeable(self):
        graph = neural_graph(MLP((4, 8, 6, 3)))
        assert graph.symmetries == (
            Symmetry((Neurons(1, range(8)),)),
            Symmetry((Neurons(2, range(6)),)),
        )

    def test_a_pooled_cnn_is_placed_whole(self):
        graph = neural_graph(fashion_cnn())
        assert [group.size for group in graph.groups] == [1, 16, 32, 32, 10]
        assert [block.cells for block in graph.blocks] == [(3, 3)] * 3 + [()]
        assert graph.placed_share == 1.0
        assert graph.num_parameters == 14_378
        assert neural_graph(cifar_cnn()).num_parameters == 56_970

    def test_a_flattened_map_becomes_cells(self):
        graph = neural_graph(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 2))
        )
        assert [group.size for group in graph.groups] == [1, 4, 2]
        assert wiring(graph)[1] == ("2.weight", 1, 2, (9,))
        assert graph.placed_share == 1.0

    def test_biases_may_be_missing(self):
        graph = neural_graph(
            nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 3, bias=False))
        )
        assert not graph.node_parameters
        assert graph.placed_share == 1.0

    def test_one_layer_has_inputs_and_outputs(self):
        assert sizes(neural_graph(nn.Linear(3, 2))) == [("input", 3), ("output", 2)]

    def test_one_axis_and_three_axes_are_convolutions_too(self):
        graph = neural_graph(nn.Sequential(nn.Conv1d(2, 3, 5), nn.Conv1d(3, 4, 1)))
        assert [block.cells for block in graph.blocks] == [(5,), (1,)]
        assert neural_graph(nn.Conv3d(1, 2, 3)).blocks[0].cells == (3, 3, 3)

    def test_depth_runs_from_inputs_to_outputs(self):
        graph = neural_graph(MLP((2, 3, 3, 3, 2)))
        assert [group.depth for group in graph.groups] == [0, 0.25, 0.5, 0.75, 1]

    def test_only_shapes_matter(self):
        first = neural_graph({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
        second = neural_graph({"weight": torch.ones(2, 3), "bias": torch.ones(2)})
        assert first == second
        assert first != neural_graph({"weight": torch.zeros(2, 3)})


class TestInputs:
    def test_names_come_from_modules_and_mappings(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        from_module = neural_graph(model)
        from_mapping = neural_graph(dict(model.named_parameters()))
        assert list(from_module.shapes) == ["0.weight", "0.bias", "1.weight", "1.bias"]
        assert from_module.source == "module names and shapes"
        assert from_mapping.source == "parameter names and shapes"
        assert from_mapping.groups == from_module.groups
        assert from_mapping.blocks == from_module.blocks

    def test_without_names_parameters_are_numbered(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        graph = neural_graph(model.parameters())
        assert list(graph.shapes) == ["0", "1", "2", "3"]
        assert graph.source == "parameter shapes"
        assert owners(graph) == {"1": 1, "3": 2}
        assert graph.placed_share == 1.0

    @pytest.mark.parametrize("empty", [nn.ReLU(), {}, [], iter(())])
    def test_nothing_is_refused(self, empty):
        with pytest.raises(ValueError, match="Pass a module with parameters"):
            neural_graph(empty)


class TestDoubt:
    def test_a_norm_has_no_place_but_the_chain_around_it_has(self):
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
        )
        graph = neural_graph(model)
        assert [item.parameter for item in graph.unplaced] == [
            "1.weight",
            "1.bias",
            "3.weight",
            "3.bias",
        ]
        assert all("does not tell" in item.reason for item in graph.unplaced)
        assert "'0.weight'" in graph.unplaced[0].reason
        assert owners(graph)["0.bias"] == 1
        assert graph.placed_share == 1 - 12 / graph.num_parameters
        isolated = [group for group in graph.groups if group.role == "isolated"]
        assert [group.size for group in isolated] == [4, 4, 2, 2]

    def test_names_tell_a_bias_from_the_vectors_of_a_norm(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        named, numbered = neural_graph(model), neural_graph(model.parameters())
        assert owners(named)["0.bias"] == 1
        assert [item.parameter for item in named.unplaced] == ["1.weight", "1.bias"]
        assert [item.parameter for item in numbered.unplaced] == ["1", "2", "3"]

    def test_a_norm_before_the_first_weight(self):
        graph = neural_graph(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)))
        assert {item.reason for item in graph.unplaced} == {
            "no weight stands before it"
        }
        assert [group.role for group in graph.groups][:2] == ["input", "output"]

    def test_a_branch_puts_every_connection_in_doubt(self):
        class Residual(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Conv2d(1, 4, 3)
                self.second = nn.Conv2d(4, 8, 3)
                self.shortcut = nn.Conv2d(4, 8, 1)
                self.head = nn.Linear(8, 2)

        graph = neural_graph(Residual())
        assert graph.placed_share == 0
        assert {item.parameter for item in graph.unplaced} == set(graph.shapes)
        assert all("'shortcut.weight'" in item.reason for item in graph.unplaced)
        assert {group.role for group in graph.groups} == {"isolated"}
        assert len(graph.groups) == 2 * 4 + 4

    @pytest.mark.parametrize(
        "parts",
        [
            {"scale": (2, 32, 2), "shift": (2, 32, 2)},
            {"policy": (4, 64, 4), "value": (4, 64, 1)},
            {"trunk": (3, 4), "left": (4, 8, 4), "right": (4, 8, 4)},
        ],
        ids=["flow", "actor and critic", "twins behind a trunk"],
    )
    def test_modules_that_may_read_the_same_are_no_chain(self, parts):
        model = nn.ModuleDict(
            {
                name: nn.Sequential(
                    *(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
                )
                for name, sizes in parts.items()
            }
        )
        graph = neural_graph(model)
        assert graph.placed_share == 0
        *_, first, second = parts
        assert all(f"{first!r} and {second!r}" in u.reason for u in graph.unplaced)

    def test_members_of_a_list_may_read_the_same(self):
        members = [nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 3)) for _ in range(2)]
        assert neural_graph(nn.ModuleList(members)).placed_share == 0

    @pytest.mark.parametrize(
        "parts",
        [
            {"encoder": (9, 6, 2), "decoder": (2, 6, 9)},
            {"body": (4, 8, 4), "head": (4, 4)},
        ],
        ids=["autoencoder", "one layer behind a body"],
    )
    def test_modules_with_other_inputs_are_a_chain(self, parts):
        model = nn.ModuleDict(
            {
                name: nn.Sequential(
                    *(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
                )
                for name, sizes in parts.items()
            }
        )
        assert neural_graph(model).placed_share == 1

    @pytest.mark.parametrize(
        "build",
        [
            lambda: nn.TransformerEncoderLayer(4, 2, 8),
            lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)),
            lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4)),
            lambda: nn.LSTM(3, 4),
        ],
        ids=["attention", "embedding", "depthwise", "lstm"],
    )
    def test_what_is_no_chain_is_not_made_one(self, build):
        graph = neural_graph(build())
        assert graph.placed_share == 0
        assert len(graph.unplaced) == len(graph.shapes)

    def test_a_flattened_map_must_have_whole_channels(self):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4 * 9 + 1, 2))
        assert neural_graph(model).placed_share == 0

    def test_a_bias_of_another_width_is_none(self):
        graph = neural_graph([torch.zeros(4, 3), torch.zeros(5), torch.zeros(2, 4)])
        assert [item.parameter for item in graph.unplaced] == ["1"]


class TestOddShapes:
    def test_scalars_and_vectors_alone(self):
        graph = neural_graph([torch.zeros(()), torch.zeros(3)])
        assert sizes(graph) == [("isolated", 1), ("isolated", 3)]
        assert graph.placed_share == 0

    def test_a_scalar_after_a_weight_is_no_bias_of_a_single_neuron_by_name(self):
        graph = neural_graph(
            {
                "a.weight": torch.zeros(1, 3),
                "a.bias": torch.zeros(1),
                "s": torch.zeros(()),
            }
        )
        assert owners(graph)["a.bias"] == 1
        assert [item.parameter for item in graph.unplaced] == ["s"]

    def test_a_tensor_without_entries(self):
        graph = neural_graph([torch.zeros(2, 3), torch.zeros(0, 3), torch.zeros(0)])
        assert [item.reason for item in graph.unplaced] == ["it has no entries"] * 2
        assert graph.placed_share == 1.0
        assert graph.num_parameters == 6


class TestDescription:
    def test_it_lists_groups_blocks_biases_and_doubts(self):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Linear(4, 2))
        text = neural_graph(model).describe()
        lines = [line.split() for line in text.splitlines()]
        assert text.startswith(
            "NeuralGraph from module names and shapes: 54 parameters, 92.6% placed\n"
        )
        assert ["0", "inputs", "input", "1", "neurons"] in lines
        assert ["1", "hidden", "1", "hidden", "4", "neurons"] in lines
        assert ["0.weight", "inputs", "->", "hidden", "1,", "3x3", "cells"] in lines
        assert ["2.weight", "hidden", "1", "->", "outputs"] in lines
        assert ["2.bias", "on", "outputs"] in lines
        assert text.splitlines()[-2] == "unplaced:"
        assert text.splitlines()[-1].startswith("  1.weight: its shape does not tell")

    def test_it_says_nothing_of_doubts_where_there_are_none(self):
        assert "unplaced" not in neural_graph(nn.Linear(3, 2)).describe()
