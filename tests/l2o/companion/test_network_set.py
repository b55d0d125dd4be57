from itertools import pairwise

import pytest
import torch

from l2o.companion import (
    NetworkSet,
    collate_networks,
    concatenate_sets,
    layered_graph,
    stack_networks,
)

NARROW = layered_graph({"a": (2, 3)})
WIDE = layered_graph({"a": (5, 3)})
GRAPHS = [NARROW, WIDE, NARROW, WIDE, WIDE, NARROW, NARROW]


def numbered():
    """Networks of two architectures; all weights of a network are its number."""
    params = [
        {"a": torch.full(graph.shapes["a"], float(number))}
        for number, graph in enumerate(GRAPHS)
    ]
    return NetworkSet(collate_networks(GRAPHS, params), torch.arange(len(GRAPHS)))


def numbers(batch):
    """Return the number and the architecture of each network, in order."""
    found = {}
    for stack in batch.stacks:
        values = stack.params["a"][:, 0, 0].long().tolist()
        for position, value in zip(stack.positions.tolist(), values, strict=True):
            assert stack.graph is GRAPHS[value]
            found[position] = value
    return [found[position] for position in range(len(batch))]


class TestChoosing:
    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            (slice(1, 4), [1, 2, 3]),
            (slice(None, None, 2), [0, 2, 4, 6]),
            ([5, 0, 1, 5], [5, 0, 1, 5]),
            (torch.tensor([6, 3]), [6, 3]),
            (torch.tensor([True, False] * 3 + [False]), [0, 2, 4]),
            (2, [2]),
            (-1, [6]),
        ],
        ids=str,
    )
    def test_networks_come_in_the_given_order_with_their_targets(self, rows, expected):
        chosen = numbered()[rows]
        assert numbers(chosen.networks) == expected == chosen.targets.tolist()

    def test_networks_of_one_architecture_are_stacked_again(self):
        both = concatenate_sets([numbered(), numbered()])
        assert len(both.networks.stacks) == 4
        assert len(both[[0, 7, 1, 8]].networks.stacks) == 2

    def test_a_slice_of_one_architecture_is_a_view(self):
        weights = torch.zeros(4, 2, 3)
        batch = stack_networks(NARROW, {"a": weights})[1:3]
        assert batch.params["a"].data_ptr() == weights[1:].data_ptr()

    def test_there_must_be_one(self):
        with pytest.raises(ValueError, match="Choose some of them"):
            numbered().networks[3:3]
        with pytest.raises(IndexError):
            numbered().networks[[7]]


class TestSplitting:
    @pytest.mark.parametrize("one_architecture", [False, True])
    def test_every_network_once(self, one_architecture):
        parts = list(numbered().split(2, one_architecture=one_architecture))
        found = [number for part in parts for number in numbers(part.networks)]
        assert sorted(found) == list(range(7))
        assert found == torch.cat([part.targets for part in parts]).tolist()
        counts = {len(part.networks.stacks) for part in parts}
        assert counts == ({1} if one_architecture else {1, 2})


class TestShuffling:
    @pytest.mark.parametrize("piece", [1, 2])
    def test_every_network_once(self, piece):
        generator = torch.Generator().manual_seed(0)
        batches = numbered().shuffled(3, generator, piece=piece)
        assert sorted(torch.cat(batches).tolist()) == list(range(7))
        assert all(len(rows) <= 3 + piece - 1 for rows in batches)

    def test_pieces_stay_together(self):
        generator = torch.Generator().manual_seed(0)
        data = concatenate_sets([numbered()] * 4)
        for rows in data.shuffled(8, generator, piece=4):
            stacks = [row.item() in (1, 3, 4) for row in rows % 7]
            assert sum(a != b for a, b in pairwise(stacks)) <= 1

    @pytest.mark.parametrize("piece", [1, 2])
    def test_the_generator_decides(self, piece):
        def order(seed):
            generator = torch.Generator().manual_seed(seed)
            return torch.cat(numbered().shuffled(3, generator, piece=piece))

        assert torch.equal(order(0), order(0))
        assert not torch.equal(order(0), order(1))


def test_every_network_has_a_target():
    with pytest.raises(ValueError, match="Pass a tensor with a leading axis"):
        NetworkSet(numbered().networks, torch.zeros(3))
