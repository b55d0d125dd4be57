"""What a trace says of single layers, and what it refuses."""

import dataclasses
import io

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import Neurons, Operation, View
from tests.l2o.graph.test_trace_truth import Middle, distance, weight


def block_of(graph, name):
    (block,) = [block for block in graph.blocks if block.parameter == name]
    return block


class Named(nn.Module):
    """Takes a dictionary of inputs, as language models do."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, *, tokens, mask=None):
        values = self.table(tokens)
        if mask is not None:
            values = values * mask[..., None]
        return {"logits": self.last(values.mean(1)), "loss": None}


class TestBlocks:
    def test_a_grouped_convolution_is_one(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, groups=2))
        graph = neural_graph(model, torch.randn(2, 3, 5, 5))
        block = block_of(graph, "1.weight")
        assert block.view == View((2, 3, 2, 3, 3), (54, 18, 9, 3, 1))
        assert block.operation is not None
        assert block.operation.name == "conv2d"
        assert ("groups", 2) in block.operation.settings
        # neurons keep to their part: 2 + 2 sources, 3 + 3 outputs that are told apart
        assert [len(s.members[0]) for s in graph.symmetries] == [2, 2]

    def test_a_transposed_convolution_has_other_strides(self):
        model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.ConvTranspose1d(4, 6, 5))
        graph = neural_graph(model, torch.randn(2, 3, 5))
        assert block_of(graph, "1.weight").view == View((1, 6, 4, 5), (0, 5, 30, 1))

    @pytest.mark.parametrize(
        ("flat", "cells", "strides"),
        [
            (lambda x: x.flatten(1), (9,), (0, 36, 9, 1)),
            (lambda x: x.permute(0, 2, 3, 1).flatten(1), (9,), (0, 36, 1, 4)),
        ],
        ids=["channels first", "channels last"],
    )
    def test_pixels_of_a_flattened_map_are_cells(self, flat, cells, strides):
        class Flat(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(36, 2)

            def forward(self, images):
                return self.last(flat(self.conv(images)))

        graph = neural_graph(Flat(), torch.randn(2, 1, 5, 5))
        block = block_of(graph, "last.weight")
        assert (block.cells, block.view.strides) == (cells, strides)
        assert block.source == Neurons(1, range(4))

    def test_memory_format_does_not_matter(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        inputs = torch.randn(2, 3, 8, 8)
        expected = neural_graph(model, inputs)
        last = model.to(memory_format=torch.channels_last)
        assert neural_graph(last, inputs) == expected
        turned = inputs.contiguous(memory_format=torch.channels_last)
        assert neural_graph(last, turned) == expected

    def test_a_norm_is_a_diagonal_into_a_group_of_its_own(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        graph = neural_graph(model, torch.randn(2, 3))
        assert block_of(graph, "1.weight").view == View((4, 1, 1), (1, 0, 0))
        assert [group.name for group in graph.groups] == ["inputs", "0", "1", "2"]
        assert [group.depth for group in graph.groups] == [0, 0.5, 0.5, 1]
        assert graph.groups[1].operations[0].name == "native_layer_norm"
        (symmetry,) = graph.symmetries
        assert symmetry.members == (Neurons(1, range(4)), Neurons(2, range(4)))

    def test_joined_maps_split_the_weight(self):
        class Dense(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)
                self.last = nn.Conv2d(5, 1, 1)

            def forward(self, images):
                one = self.one(images)
                return self.last(torch.cat([self.two(one), one], 1))

        graph = neural_graph(Dense(), torch.randn(2, 1, 4, 4))
        pieces = [b for b in graph.blocks if b.parameter == "last.weight"]
        sizes = [(graph.groups[b.source.group].name, b.view.offset) for b in pieces]
        assert sizes == [("two", 0), ("one", 3)]

    def test_tied_weights_have_one_owner(self):
        model = Middle(
            lambda s, x: (x @ s.w.t()).relu() @ s.w, w=weight(8, 8)
        ).requires_grad_(False)
        graph = neural_graph(model, torch.randn(2, 3))
        owners = [b.is_alias for b in graph.blocks if b.parameter == "w"]
        assert owners == [False, True]

    def test_partly_used_positions_are_placed_whole(self):
        model = Middle(lambda s, x: x + s.p[:, :5], p=weight(1, 9, 8))
        graph = neural_graph(model, torch.randn(2, 5, 3))
        (node,) = [n for n in graph.node_parameters if n.parameter == "p"]
        assert sorted(node.view.shape) == [1, 8, 9]
        assert graph.placed_share == 1

    def test_activations_are_noted(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.3), nn.Linear(4, 2))
        graph = neural_graph(model, torch.randn(2, 3))
        expected = Operation(name="leaky_relu", settings=(("negative_slope", 0.3),))
        assert graph.groups[1].operations == (expected,)


class TestInputs:
    def test_may_have_names(self):
        graph = neural_graph(
            Named(), tokens=torch.zeros(5, 3, dtype=torch.int64), mask=torch.ones(5, 3)
        )
        assert graph.source == "trace of Named"
        assert [group.role for group in graph.groups] == ["hidden", "input", "output"]

    def test_a_batch_is_cut_where_the_model_allows_it(self):
        seen = io.StringIO()  # a list would be put back

        class Watched(nn.Linear):
            def forward(self, values):
                seen.write(f"{len(values)} ")
                return super().forward(values)

        neural_graph(Watched(3, 2), torch.randn(64, 3))
        assert seen.getvalue() == "2 "

    def test_a_batch_stays_whole_where_it_must(self):
        class Fixed(nn.Linear):
            def forward(self, values):
                return super().forward(values.view(64, 3))

        assert neural_graph(Fixed(3, 2), torch.randn(64, 3)).placed_share == 1

    def test_the_error_of_a_model_comes_through(self):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            neural_graph(nn.Linear(3, 2), torch.randn(5, 4))

    def test_need_a_module(self):
        with pytest.raises(TypeError, match="Pass the module, or leave the inputs out"):
            neural_graph([torch.zeros(2, 3)], torch.randn(2, 3))

    def test_need_parameters(self):
        with pytest.raises(ValueError, match="Pass a module with parameters"):
            neural_graph(nn.ReLU(), torch.randn(2, 3))


class Unknown(Middle):
    """Measures distances to a table, which no rule follows."""

    def __init__(self):
        super().__init__(lambda s, x: torch.cdist(x, s.centres), centres=weight(8, 8))
        self.forgotten = nn.Linear(2, 2, bias=False)


class TestDoubt:
    def test_is_listed_with_the_reason(self):
        graph = neural_graph(Unknown(), torch.randn(2, 3))
        reasons = {item.parameter: item.reason for item in graph.unplaced}
        assert "_cdist_forward" in reasons["centres"]
        assert reasons["forgotten.weight"] == "the forward pass never used it"
        assert graph.symmetries == ()
        isolated = [group for group in graph.groups if group.role == "isolated"]
        assert len(isolated) == 4

    def test_is_an_error_if_asked_for(self):
        with pytest.raises(ValueError, match="Pass strict=False to let them") as error:
            neural_graph(Unknown(), torch.randn(2, 3), strict=True)
        for part in ("centres", "forgotten.weight", "_cdist_forward"):
            assert part in str(error.value)

    def test_of_shapes_is_an_error_if_asked_for(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        with pytest.raises(ValueError, match="Pass example inputs"):
            neural_graph(model, strict=True)
        assert neural_graph(model, torch.randn(2, 3), strict=True).placed_share == 1

    def test_a_graph_wired_wrongly_is_caught(self):
        """The numerical check behind all of this sees one block moved by a layer."""
        torch.manual_seed(0)
        body = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)]
        model = nn.Sequential(*body).double()
        values = torch.randn(4, 3, dtype=torch.float64)
        graph = neural_graph(model, values)
        assert distance(model, values, graph, 0) < 1e-9
        wrong = tuple(
            dataclasses.replace(block, source=Neurons(1, range(5)))
            if block.parameter == "4.weight"
            else block
            for block in graph.blocks
        )
        assert (
            distance(model, values, dataclasses.replace(graph, blocks=wrong), 0) > 0.01
        )
