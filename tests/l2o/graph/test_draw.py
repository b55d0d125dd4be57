"""Pictures of graphs, read as SVG, which names its texts in comments."""

import itertools

import pytest

from l2o.graph import NeuralGraph, NeuronGroup, Neurons, Operation, Tie
from l2o.graph.draw import common_prefix, cuts, describe, draw_graph, wrap_name


def test_every_name_is_readable(graph, tmp_path):
    draw_graph(graph, tmp_path / "graph.svg")
    text = (tmp_path / "graph.svg").read_text()
    for name in ("inputs", "first", "second", "outputs", "conv", "grouped", "2 parts"):
        assert f"<!-- {name} -->" in text
    assert "<!-- 4 relu -->" in text
    for entry in ("weights", "tied weights", "residual", "hidden"):
        assert f"<!-- {entry} -->" in text
    for entry in ("isolated", "gate", "one weight per neuron"):
        assert f"<!-- {entry} -->" not in text
    assert "46 parameters, 100.0% placed; 4 groups, 3 blocks; given" in text


def test_a_picture_of_pixels(graph, tmp_path):
    draw_graph(graph, tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", ["residual", "dot", "gate", "move"])
def test_ties_are_drawn_over_lines_and_backwards(tmp_path, kind):
    edges = [*itertools.pairwise(range(30)), (2, 29), (7, 5), (4, 4)]
    graph = NeuralGraph(
        shapes={},
        groups=tuple(
            NeuronGroup(name=str(k), size=4, role="hidden") for k in range(30)
        ),
        blocks=(),
        node_parameters=(),
        ties=tuple(
            Tie(kind=kind, source=Neurons(s, range(4)), target=Neurons(t, range(4)))
            for s, t in edges
        ),
    )
    draw_graph(graph, tmp_path / "graph.svg")
    words = "attention scores" if kind == "dot" else kind
    assert f"<!-- {words} -->" in (tmp_path / "graph.svg").read_text()


def test_bars_are_cut_where_symmetries_end(graph):
    assert [cuts(graph, group) for group in range(4)] == [[], [0.5], [], []]


def test_what_is_applied_to_neurons_is_said_in_short():
    names = ("native_batch_norm", "relu", "relu", "max_pool2d_with_indices")
    operations = tuple(Operation(name=name) for name in names)
    group = NeuronGroup(name="a", size=4, role="hidden", operations=operations)
    assert describe(group) == "batch_norm relu max_pool2d"


def test_names_share_what_all_begin_with():
    assert common_prefix(["net.h.0.a", "net.h.10.b"]) == "net.h."
    assert common_prefix(["a.weight", "b.weight"]) == ""
    assert common_prefix([]) == ""


def test_names_take_two_lines():
    assert wrap_name("short.name", 12) == "short.name"
    assert wrap_name("first.longer.second.part", 12) == "first.longer\nsecond.part"
    assert wrap_name("one.two.three.four", 9) == "three\nfour"
    assert wrap_name("12 relu max_pool2d", 10, " ") == "12 relu\nmax_pool2d"
    assert wrap_name("averyveryverylongname", 8) == "…ongname"


def test_an_unknown_format_is_refused(graph, tmp_path):
    with pytest.raises(ValueError, match=r"got '.*graph.txt'. Name it .png"):
        draw_graph(graph, tmp_path / "graph.txt")
