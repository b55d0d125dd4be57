"""How far a traced graph reaches: a tracer that froze everything would tell no lie."""

from dataclasses import replace

import pytest
from zoo.reach import count_places, measure


def assert_reach(subject, *, draws=4):
    reach = measure(subject.graph, subject.params, draws=draws)
    specimen = subject.specimen
    assert reach.placed >= specimen.placed, f"places for {reach.placed:.3f} of entries"
    assert reach.neurons >= specimen.neurons, f"symmetries for {reach.neurons:.3f}"
    assert reach.entries >= specimen.entries, f"permutations move {reach.entries:.3f}"


def assert_placed_once(graph):
    for name, counts in count_places(graph).items():
        assert bool((counts == 1).all()), f"{name} has places {counts.unique()}"


class TestReach:
    def test_of_small_networks(self, small):
        assert_reach(small)

    @pytest.mark.slow
    def test_of_full_size_networks(self, full_size):
        assert_reach(full_size, draws=1)


class TestEveryEntryHasOnePlace:
    def test_in_small_networks(self, small):
        assert_placed_once(small.graph)

    @pytest.mark.slow
    def test_in_full_size_networks(self, full_size):
        assert_placed_once(full_size.graph)


class TestTheLawsCanFail:
    def test_where_nothing_may_move(self, small_named):
        subject = small_named("mlp")
        frozen = replace(subject, graph=replace(subject.graph, symmetries=()))
        with pytest.raises(AssertionError, match="symmetries for 0"):
            assert_reach(frozen)

    def test_where_an_entry_has_two_places(self, small_named):
        graph = small_named("mlp").graph
        first = graph.blocks[0]
        steps = (first.view.strides[0], 0, *first.view.strides[2:])
        view = replace(first.view, strides=steps)
        blocks = (replace(first, view=view), *graph.blocks[1:])
        with pytest.raises(AssertionError, match="has places"):
            assert_placed_once(replace(graph, blocks=blocks))
