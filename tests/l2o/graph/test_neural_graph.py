from dataclasses import FrozenInstanceError, replace

import pytest
from torch import nn

from l2o import NeuralGraph, neural_graph
from l2o.graph import NeuronGroup, Neurons, NodeParameter, Tie, View, WeightBlock

GROUPS = (
    NeuronGroup(name="inputs", size=3, role="input"),
    NeuronGroup(name="outputs", size=2, role="output", depth=1.0),
)
INPUTS, OUTPUTS = Neurons(0, range(3)), Neurons(1, range(2))
BLOCK = WeightBlock(
    parameter="weight", source=INPUTS, target=OUTPUTS, view=View.contiguous(1, 2, 3)
)
BIAS = NodeParameter(parameter="bias", neurons=OUTPUTS, view=View.contiguous(2))


@pytest.fixture
def graph():
    return NeuralGraph(
        shapes={"weight": (2, 3), "bias": (2,)},
        groups=GROUPS,
        blocks=(BLOCK,),
        node_parameters=(BIAS,),
    )


def test_a_graph_written_by_hand_is_the_inferred_one(graph):
    found = neural_graph(nn.Linear(3, 2))
    assert replace(found, source="given") == graph
    assert graph.placed_share == 1.0
    assert graph.num_parameters == 8


def test_it_cannot_be_changed(graph):
    with pytest.raises(FrozenInstanceError):
        graph.source = "elsewhere"


def test_a_view_in_the_parameters_own_order():
    assert View.contiguous(2, 3, 4) == View((2, 3, 4), (12, 4, 1), 0)
    assert View.contiguous(5) == View((5,), (1,), 0)


class TestValidation:
    def test_a_parameter_without_a_place(self, graph):
        with pytest.raises(ValueError, match=r"got 0 places for 2 .*List each entry"):
            replace(graph, node_parameters=())

    def test_a_parameter_with_two_places(self, graph):
        with pytest.raises(ValueError, match=r"got 12 places for 6 .*once"):
            replace(graph, blocks=(BLOCK, BLOCK))

    def test_an_alias_is_no_second_place(self, graph):
        alias = replace(BLOCK, is_alias=True)
        assert replace(graph, blocks=(BLOCK, alias)).num_parameters == 8

    def test_a_place_without_a_parameter(self, graph):
        with pytest.raises(ValueError, match=r"match the shape of 'bias'"):
            replace(graph, shapes={"weight": (2, 3)})

    @pytest.mark.parametrize("shape", [(1, 4), (1, 1), ()])
    def test_a_weight_that_its_view_leaves(self, graph, shape):
        with pytest.raises(ValueError, match="Check its neurons, cells and strides"):
            replace(graph, shapes={"weight": shape, "bias": (2,)})

    def test_entries_that_no_view_holds(self, graph):
        with pytest.raises(ValueError, match=r"got 6 places for 8 entries"):
            replace(graph, shapes={"weight": (2, 4), "bias": (2,)})

    @pytest.mark.parametrize(
        "neurons",
        [
            Neurons(1, range(1)),
            Neurons(1, range(1, 3)),
            Neurons(1, (0, 2)),
            Neurons(1, (-1, 0)),
            Neurons(1, (1, 1)),
        ],
        ids=["too few", "past the end", "outside", "negative", "twice"],
    )
    def test_neurons_that_do_not_fit(self, graph, neurons):
        with pytest.raises(ValueError, match=r"views that match .*'weight'"):
            replace(graph, blocks=(replace(BLOCK, target=neurons),))

    def test_neurons_in_another_order_do_fit(self, graph):
        block = replace(BLOCK, target=Neurons(1, (1, 0)))
        assert replace(graph, blocks=(block,)).blocks == (block,)

    def test_a_tie_between_unequal_ends(self, graph):
        tie = Tie(kind="residual", source=INPUTS, target=OUTPUTS)
        with pytest.raises(ValueError, match=r"got 3 and 2 \(residual\)\. Join each"):
            replace(graph, ties=(tie,))


def test_the_description_tells_parts_aliases_and_ties(graph):
    scale = WeightBlock(
        parameter="scale", source=OUTPUTS, target=OUTPUTS, view=View.contiguous(2, 1, 1)
    )
    graph = replace(
        graph,
        shapes={**graph.shapes, "scale": (2,)},
        blocks=(BLOCK, scale, replace(BLOCK, is_alias=True)),
        ties=(
            Tie(kind="move", source=Neurons(0, range(1, 2)), target=Neurons(1, (1,))),
        ),
    )
    lines = [" ".join(line.split()) for line in graph.describe().splitlines()]
    assert "scale outputs -> outputs, 2 parts" in lines
    assert "weight inputs -> outputs (alias)" in lines
    assert lines[-2:] == ["ties:", "move inputs[1:2] -> outputs[1 of 2]"]
