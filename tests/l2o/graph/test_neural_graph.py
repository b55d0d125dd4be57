from dataclasses import FrozenInstanceError, replace

import pytest
from torch import nn

from l2o import NeuralGraph, neural_graph
from l2o.graph import NeuronGroup, NodeParameter, WeightBlock

GROUPS = (
    NeuronGroup(name="inputs", size=3, role="input"),
    NeuronGroup(name="outputs", size=2, role="output", depth=1.0),
)
BLOCK = WeightBlock(parameter="weight", source=0, target=1)
BIAS = NodeParameter(parameter="bias", group=1)


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


class TestValidation:
    def test_a_parameter_without_a_place(self, graph):
        with pytest.raises(ValueError, match=r"got 0 for 'bias'.*List each parameter"):
            replace(graph, node_parameters=())

    def test_a_parameter_with_two_places(self, graph):
        with pytest.raises(ValueError, match=r"got 2 for 'weight'.*once"):
            replace(graph, blocks=(BLOCK, BLOCK))

    def test_a_place_without_a_parameter(self, graph):
        with pytest.raises(ValueError, match=r"'bias' \(in shapes: False\)"):
            replace(graph, shapes={"weight": (2, 3)})

    @pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 3, 2), ()])
    def test_a_weight_that_its_groups_contradict(self, graph, shape):
        with pytest.raises(ValueError, match="Check its groups and cells"):
            replace(graph, shapes={"weight": shape, "bias": (2,)})

    def test_cells_that_the_shape_contradicts(self, graph):
        block = replace(BLOCK, cells=(3, 3))
        with pytest.raises(ValueError, match=r"shape \(2, 3\) for 54 entries"):
            replace(graph, blocks=(block,))

    def test_a_bias_that_its_group_contradicts(self, graph):
        with pytest.raises(ValueError, match=r"match the shape of 'bias'"):
            replace(graph, shapes={"weight": (2, 3), "bias": (3,)})

    def test_two_biases_on_one_group(self, graph):
        with pytest.raises(ValueError, match="Give each its own group"):
            replace(
                graph,
                shapes={**graph.shapes, "shift": (2,)},
                node_parameters=(BIAS, NodeParameter(parameter="shift", group=1)),
            )
