"""Dense blocks and PyTorch Geometric's edge lists are two forms of one network."""

from dataclasses import replace

import pytest
import torch

from l2o.graph import Neurons
from l2o.nets.pyg import PyGNGGNNNet


@pytest.fixture(scope="session")
def compare_forms(random_rule, random_grads, last_update, assert_updates_agree):
    """Compare the updates of a rule in both forms."""

    def check(config, network, other_graph=None, dtype=torch.float64, **tolerance):
        dense, listed = (random_rule(config, dtype=dtype) for _ in range(2))
        listed.net = PyGNGGNNNet(listed.net)
        params = {name: item.to(dtype) for name, item in network.params.items()}
        grads = random_grads(params)
        graph = network.graph
        expected = last_update(dense, graph, params, grads)
        found = last_update(
            listed, graph if other_graph is None else other_graph, params, grads
        )
        assert_updates_agree(found, expected, **tolerance)

    return check


@pytest.mark.parametrize("name", ["default", "pooled-shared"])
class TestGeneralGraphs:
    def test_both_forms_agree(self, compare_forms, configs, general, name):
        compare_forms(configs[name], general)

    def test_in_single_precision_too(self, compare_forms, configs, general, name):
        # Either form is up to 3e-4 from float64 here.
        compare_forms(configs[name], general, dtype=torch.float32, tolerance=2e-4)


@pytest.mark.parametrize("name", ["default", "narrow-paper", "cells-own"])
def test_both_forms_agree_on_chains(compare_forms, configs, network, name):
    compare_forms(configs[name], network)


def test_meta_gradients_agree(build_general, configs, random_rule, random_grads):
    general = build_general("attention")
    grads = random_grads(general.params)[0]
    found = []
    for wrap in (lambda net: net, PyGNGGNNNet):
        rule = random_rule(configs["default"])
        theta = list(rule.parameters())
        rule.net = wrap(rule.net)
        state = rule.advance(rule.init_state(general.params), grads)
        updates = rule(general.graph, general.params, grads, state)
        loss = sum(update.square().sum() for update in updates.values())
        found.append(torch.autograd.grad(loss, theta))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)


def test_the_comparison_can_fail(compare_forms, configs, build_general):
    """One tie that joins other neurons is enough."""
    general = build_general("attention")
    first, *others = general.graph.ties
    moved = replace(first, target=Neurons(first.target.group, (1, 0, 2, 3, 4, 5)))
    with pytest.raises(AssertionError, match="is off by"):
        compare_forms(
            configs["default"],
            general,
            replace(general.graph, ties=(moved, *others)),
        )
