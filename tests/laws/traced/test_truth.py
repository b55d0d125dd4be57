"""What a graph calls exchangeable is: the network cannot tell.

No expected graph is written down anywhere. The neurons are renumbered as the graph's
symmetries allow, wherever the graph says that they occur, and the network is run.
"""

from dataclasses import replace

import pytest
import torch

from l2o.graph import Neurons, Symmetry, permute_parameters, random_permutations


def permuted(subject, seed, graph=None):
    """Renumber the neurons at random; another graph says where they occur."""
    graph = subject.graph if graph is None else graph
    generator = torch.Generator().manual_seed(seed)
    orders = random_permutations(graph, generator)
    return permute_parameters(graph, orders, subject.params)


def block_of(graph, parameter, *, number=0):
    """Return the place in `graph.blocks` of one of a parameter's blocks."""
    found = [k for k, block in enumerate(graph.blocks) if block.parameter == parameter]
    return found[number]


def exchanged(graph, first, second, field):
    """Exchange one field of two blocks."""
    blocks = list(graph.blocks)
    one, other = blocks[first], blocks[second]
    blocks[first] = replace(one, **{field: getattr(other, field)})
    blocks[second] = replace(other, **{field: getattr(one, field)})
    return replace(graph, blocks=tuple(blocks))


def assert_unmoved(subject, graph=None, *, draws=2):
    for seed in range(draws):
        distance = subject.distance(permuted(subject, seed, graph))
        assert distance <= subject.specimen.tolerance, (
            f"outputs moved by {distance:.1e}"
        )


class TestPermutations:
    def test_they_leave_the_outputs_of_small_networks(self, small):
        assert_unmoved(small)

    @pytest.mark.slow
    def test_they_leave_the_outputs_of_full_size_networks(self, full_size):
        assert_unmoved(full_size, draws=1)


class TestTheLawCanFail:
    """Where a wrong graph is not caught by its permutations, they are contradictory."""

    CAUGHT = (AssertionError, ValueError)

    def test_for_every_tensor_that_a_permutation_forgets(self, small):
        """So a wrong place of any one tensor would have been seen."""
        moved = permuted(small, 0)
        for name, before in small.params.items():
            if torch.equal(moved[name], before):
                continue
            distance = small.distance({**moved, name: before})
            assert distance > 1e-6, f"forgetting {name} moved outputs by {distance}"

    def test_for_layers_that_exchange_their_sources(self, small_named):
        subject = small_named("siren")
        first = block_of(subject.graph, "2.weight")
        second = block_of(subject.graph, "4.weight")
        graph = exchanged(subject.graph, first, second, "source")
        with pytest.raises(AssertionError, match="outputs moved by"):
            assert_unmoved(subject, graph)

    def test_for_a_wrong_offset_after_a_concatenation(self, small_named):
        subject = small_named("densenet")
        first = block_of(subject.graph, "3.weight", number=1)
        second = block_of(subject.graph, "3.weight", number=2)
        graph = exchanged(subject.graph, first, second, "view")
        with pytest.raises(AssertionError, match="outputs moved by"):
            assert_unmoved(subject, graph)

    @pytest.mark.parametrize("name", ["gpt", "cifar_resnet8", "convnext", "lstm"])
    def test_for_any_tie_that_is_left_out(self, small_named, name):
        """A group of the longest symmetry moves alone."""
        subject = small_named(name)
        *others, longest = sorted(
            subject.graph.symmetries, key=lambda symmetry: len(symmetry.members)
        )
        with_weights = {block.target.group for block in subject.graph.blocks}
        for index, member in enumerate(longest.members):
            if member.group not in with_weights:
                continue  # a sum: nothing of it is in a parameter
            rest = longest.members[:index] + longest.members[index + 1 :]
            graph = replace(
                subject.graph,
                symmetries=(*others, Symmetry(rest), Symmetry((member,))),
            )
            with pytest.raises(self.CAUGHT):
                assert_unmoved(subject, graph)

    def test_for_neurons_that_leave_their_head(self, small_named):
        subject = small_named("gpt")
        heads = [s for s in subject.graph.symmetries if len(s.members) == 2][:2]
        others = [s for s in subject.graph.symmetries if s not in heads]
        queries, keys = (
            Neurons(head[0].group, (*head[0].index, *head[1].index))
            for head in zip(*(symmetry.members for symmetry in heads), strict=True)
        )
        merged = Symmetry((queries, keys))
        graph = replace(subject.graph, symmetries=(*others, merged))
        with pytest.raises(AssertionError, match="outputs moved by"):
            assert_unmoved(subject, graph)
