import pytest

from l2o.graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    NodeParameter,
    Operation,
    Symmetry,
    Tie,
    View,
    WeightBlock,
)


@pytest.fixture
def graph():
    """Inputs, two convolutions (the second in two groups), a residual, tied outputs."""
    a, b, c, d = (Neurons(k, range(size)) for k, size in enumerate((2, 4, 4, 2)))
    return NeuralGraph(
        shapes={"conv": (4, 2, 3), "grouped": (4, 2), "bias": (4,), "table": (2, 5)},
        groups=(
            NeuronGroup(name="inputs", size=2, role="input"),
            NeuronGroup(
                name="first",
                size=4,
                role="hidden",
                operations=(Operation(name="relu"),),
            ),
            NeuronGroup(name="second", size=4, role="hidden"),
            NeuronGroup(name="outputs", size=2, role="output"),
        ),
        blocks=(
            WeightBlock(
                parameter="conv",
                source=a,
                target=b,
                view=View.contiguous(1, 4, 2, 3),
            ),
            WeightBlock(
                parameter="grouped",
                source=b,
                target=Neurons(2, (3, 1, 0, 2)),
                view=View.contiguous(2, 2, 2),
            ),
            WeightBlock(
                parameter="conv",
                source=c,
                target=d,
                view=View((1, 2, 4, 3), (24, 3, 6, 1)),
                is_alias=True,
            ),
        ),
        node_parameters=(
            NodeParameter(parameter="bias", neurons=c, view=View.contiguous(4)),
            NodeParameter(
                parameter="table",
                neurons=Neurons(2, range(1, 4, 2)),
                view=View.contiguous(2, 5),
            ),
        ),
        ties=(Tie(kind="residual", source=b, target=c),),
        symmetries=(Symmetry((Neurons(1, range(2)), Neurons(2, (3, 1)))),),
    )
