"""A rule on a traced graph: it sees neurons, not their numbers, in either form."""

import pytest
import torch

from l2o import RuleConfig
from l2o.graph import permute_parameters, random_permutations
from l2o.nets import FeedForwardConfig, NGGNNConfig
from l2o.nets.pyg import PyGNGGNNNet

NARROW = RuleConfig(
    net=NGGNNConfig(width=8, layers=2, head=FeedForwardConfig(width=8, layers=2))
)
"""It has every kind of message, and few numbers an edge."""

NARROWEST = RuleConfig(
    net=NGGNNConfig(width=6, layers=1, head=FeedForwardConfig(width=4, layers=1))
)
"""For full-size networks: a second layer, which small ones have, reads no other part of
the graph than the first."""

LARGEST = 14_000_000
"""Parameters of the largest network for which updates are computed: about 2.5 GB."""

LARGEST_LISTED = 6_000_000
"""The same in the form of edge lists, which keeps every message."""


@pytest.fixture(scope="module")
def rule(random_rule):
    return random_rule(NARROW)


@pytest.fixture(scope="module")
def narrowest(random_rule):
    return random_rule(NARROWEST)


@pytest.fixture(scope="module")
def assert_equivariant(random_grads, last_update, assert_updates_agree):
    def check(rule, subject, *, graph=None):
        graph = subject.graph if graph is None else graph
        orders = random_permutations(subject.graph, torch.Generator().manual_seed(1))

        def moved(tensors):
            return permute_parameters(subject.graph, orders, tensors)

        grads = random_grads(subject.params, 1)
        expected = moved(last_update(rule, graph, subject.params, grads))
        grads = [moved(step) for step in grads]
        found = last_update(rule, graph, moved(subject.params), grads)
        assert_updates_agree(found, expected)

    return check


class TestRenumbering:
    """Renumbering a network's neurons renumbers its updates."""

    def test_small_networks(self, assert_equivariant, rule, small):
        assert_equivariant(rule, small)

    @pytest.mark.slow
    def test_full_size_networks(self, assert_equivariant, narrowest, full_size):
        size = full_size.graph.num_parameters
        if size > LARGEST:
            pytest.skip(
                f"the rule's states of {size:,} weights take minutes and memory"
            )
        assert_equivariant(narrowest, full_size)


@pytest.fixture(scope="module")
def assert_forms_agree(random_rule, random_grads, last_update, assert_updates_agree):
    """Compare a rule on dense blocks with the rule on PyTorch Geometric's edges."""

    def check(config, subject):
        rule, listed = random_rule(config), random_rule(config)
        listed.net = PyGNGGNNNet(listed.net)
        grads = random_grads(subject.params, 1)
        expected = last_update(rule, subject.graph, subject.params, grads)
        found = last_update(listed, subject.graph, subject.params, grads)
        assert_updates_agree(found, expected, tolerance=1e-6)

    return check


class TestForms:
    """Dense blocks and edge lists agree."""

    def test_on_small_networks(self, assert_forms_agree, small):
        assert_forms_agree(NARROW, small)

    @pytest.mark.slow
    def test_on_full_size_networks(self, assert_forms_agree, full_size):
        size = full_size.graph.num_parameters
        if size > LARGEST_LISTED:
            pytest.skip(f"the messages of {size:,} weights take minutes and memory")
        assert_forms_agree(NARROWEST, full_size)
