"""Blocks of one shape may be computed together or one by one."""

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import stacks as stacks_module
from l2o.graph import to_blocks
from l2o.graph.stacks import find_stacks, stack_values, unstack_values

CPU = torch.device("cpu")


@pytest.fixture
def deep():
    """Eight alike layers with biases, and a graph that is fresh for every test."""
    layers = [nn.Linear(5, 5).double() for _ in range(8)]
    params = {n: p.detach() for n, p in nn.Sequential(*layers).named_parameters()}
    return neural_graph(params), params


def test_values_come_back_from_their_stacks(general):
    graph = general.graph
    stacks = find_stacks(graph, CPU)
    blocks = to_blocks(graph, general.params)
    found = unstack_values(graph, stacks, stack_values(stacks, blocks))
    for block, item, expected in zip(
        graph.blocks, found.edges, blocks.edges, strict=True
    ):
        assert item.numel() == 0 if block.is_alias else item.equal(expected)
    for item, expected in zip(found.nodes, blocks.nodes, strict=True):
        assert item.equal(expected)


def test_degrees_count_edges_and_ties(general):
    """Counted edge by edge."""
    graph, first = general.graph, [0]
    for group in graph.groups:
        first.append(first[-1] + group.size)
    counts = [0] * first[-1]
    for block in graph.blocks:
        parts, targets, sources = block.view.shape[:3]
        for place, number in enumerate(block.target.index):
            assert place < parts * targets
            counts[first[block.target.group] + number] += sources
        for number in block.source.index:
            counts[first[block.source.group] + number] += targets
    for tie in graph.ties:
        for end in (tie.source, tie.target):
            for number in end.index:
                counts[first[end.group] + number] += 1
    assert find_stacks(graph, CPU).degree.tolist() == counts


@pytest.mark.parametrize("limit", [0, 60, 10**6])
def test_stacks_are_filled_up_to_the_limit(deep, monkeypatch, limit):
    monkeypatch.setattr(stacks_module, "STACK_ENTRIES", limit)
    stacks = find_stacks(deep[0], CPU)
    sizes = [len(stack.blocks) for stack in stacks.edges]
    assert sizes == {0: [1] * 8, 60: [2] * 4, 10**6: [8]}[limit]
    assert sorted(i for stack in stacks.edges for i in stack.blocks) == list(range(8))


@pytest.mark.parametrize("name", ["default", "pooled-shared", "narrow-paper"])
def test_stacking_changes_nothing(
    deep,
    configs,
    random_rule,
    random_grads,
    last_update,
    assert_updates_agree,
    monkeypatch,
    name,
):
    graph, params = deep
    rule, grads = random_rule(configs[name]), random_grads(params)
    together = last_update(rule, graph, params, grads)
    monkeypatch.setattr(stacks_module, "STACK_ENTRIES", 0)
    alone = last_update(rule, neural_graph(params), params, grads)
    assert_updates_agree(together, alone, tolerance=1e-12)
