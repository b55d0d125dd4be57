"""Where groups stand in a picture."""

import itertools

import pytest

from l2o.graph import NeuralGraph, NeuronGroup, Neurons, Tie
from l2o.graph.columns import bar_height, place_groups


@pytest.fixture
def joined():
    """Build a graph of groups of four neurons, joined by residual ties."""

    def build(number, *edges, kind="residual"):
        ties = [
            Tie(kind=kind, source=Neurons(s, range(4)), target=Neurons(t, range(4)))
            for s, t in edges
        ]
        groups = [
            NeuronGroup(name=str(k), size=4, role="hidden") for k in range(number)
        ]
        return NeuralGraph(
            shapes={},
            groups=tuple(groups),
            blocks=(),
            node_parameters=(),
            ties=tuple(ties),
        )

    return build


def columns_of(graph, **settings):
    return [place.column for place in place_groups(graph, **settings).places]


def test_a_group_stands_right_of_all_that_it_reads(joined):
    assert columns_of(joined(4, (0, 1), (0, 2), (1, 2), (2, 3))) == [0, 1, 2, 3]
    assert columns_of(joined(4, (0, 1), (0, 2), (1, 3), (2, 3))) == [0, 1, 1, 2]


def test_recurrence_does_not_count(joined):
    assert columns_of(joined(3, (0, 1), (1, 1), (1, 2), (2, 1))) == [0, 1, 2]


def test_what_reads_nothing_stands_just_before_its_reader(joined):
    assert columns_of(joined(4, (0, 2), (1, 3), (2, 3))) == [0, 1, 1, 2]


def test_attention_scores_have_no_direction(joined):
    assert columns_of(joined(2, (0, 1), kind="dot")) == [0, 0]


def test_groups_of_a_column_do_not_touch(joined):
    edges = [(0, k) for k in range(1, 5)]
    places = place_groups(joined(5, *edges)).places[1:]
    tops = sorted((place.top for place in places), reverse=True)
    height = bar_height(4)
    assert all(a - height > b for a, b in itertools.pairwise(tops))
    assert len({place.x for place in places}) == 1


class TestLines:
    def test_a_long_graph_goes_on_in_new_ones(self, joined):
        chain = joined(40, *itertools.pairwise(range(40)))
        placement = place_groups(chain, columns=16)
        lines = [place.line for place in placement.places]
        assert lines == sorted(lines)
        assert max(lines) == 2
        assert max(lines.count(line) for line in lines) <= 16
        for before, after in itertools.pairwise(placement.places):
            assert (after.line, after.x) > (before.line, before.x)
            if after.line > before.line:
                assert after.top < before.top - before.height

    def test_they_break_where_few_groups_are_cut_off(self, joined):
        """A skip spans groups 5 to 9: the line breaks before it, not inside."""
        chain = joined(14, *itertools.pairwise(range(14)), *[(5, k) for k in (8, 9)])
        lines = [place.line for place in place_groups(chain, columns=8).places]
        assert lines.index(1) <= 6

    def test_the_picture_holds_every_bar(self, joined):
        chain = joined(40, *itertools.pairwise(range(40)))
        placement = place_groups(chain, columns=16)
        for place in placement.places:
            assert 0 < place.x < placement.width
            assert -placement.height < place.top - place.height < place.top < 0


def test_a_selection_has_its_share_of_the_bar(joined):
    place = place_groups(joined(1)).places[0]
    top, low = place.span(Neurons(0, (1, 2)), 4)
    assert top == pytest.approx(place.top - place.height / 4)
    assert low == pytest.approx(place.top - place.height * 3 / 4)
