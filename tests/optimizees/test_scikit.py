import pytest
import torch

from optimizees.data.scikit import (
    load_diabetes,
    load_digit_graph,
    load_graph_nodes,
    load_photograph,
)

LOADERS = {load_diabetes: 442, load_photograph: 61 * 92, load_graph_nodes: 1797}
SPLITS = ("train", "validation", "test")


def rows(examples):
    """Return the examples as a set of rows."""
    inputs = examples.data.inputs.reshape(len(examples.data.inputs), -1)
    return {tuple(row) for row in inputs.tolist()}


@pytest.mark.parametrize("load", LOADERS)
def test_splits_are_disjoint_and_cover_the_data(load):
    parts = [rows(load(split)) for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == LOADERS[load]
    assert rows(load("train+validation")) == parts[0] | parts[1]
    for split in SPLITS:
        inputs, targets = load(split).data
        assert len(inputs) == len(targets)


@pytest.mark.parametrize("load", LOADERS)
def test_an_unknown_split_is_refused(load):
    # Where argument types are checked, that check comes first.
    with pytest.raises((ValueError, TypeError), match="held-out"):
        load("held-out")


def test_the_table_is_normalised_by_its_training_rows():
    for item in load_diabetes("train").data:
        torch.testing.assert_close(item.mean(0), torch.zeros(item.shape[1]))
        torch.testing.assert_close(item.std(0), torch.ones(item.shape[1]))
    assert load_diabetes("test").data.targets.mean().abs() > 1e-3


def test_the_photograph_lies_in_a_frame_of_its_own_shape():
    places, colours = load_photograph("train+validation").data
    assert places.abs().amax(0).tolist() == pytest.approx([1.0, 60 / 91])
    assert colours.shape[1] == 3
    assert 0 <= colours.min() < 0.1
    assert 0.9 < colours.max() <= 1


def test_the_graph_joins_digits_that_look_alike():
    graph = load_digit_graph()
    source, target = graph.edges
    assert bool((source != target).all())
    both_ways = torch.cat([graph.edges, graph.edges.flip(0)], dim=1).unique(dim=1)
    assert torch.equal(both_ways, graph.edges)
    assert torch.bincount(target).min() >= 8
    same = (graph.labels[source] == graph.labels[target]).double().mean()
    assert same > 0.9
    shuffled = graph.labels[torch.randperm(len(graph.labels))]
    assert (shuffled[source] == shuffled[target]).double().mean() < 0.2
