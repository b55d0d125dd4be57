"""How many operations a step launches on an accelerator does not creep up."""

import pytest
import torch
from torch import nn

import l2o
from benchmarks.launches import Launches
from l2o.rule.neuron_rule import NeuronRule
from optimizees import MLP, fashion_cnn
from optimizees.resnet import ResNet18
from optimizees.transformer import GPT

GUARD = l2o.SafetyConfig()


def launches(model, *inputs, rule=None, safety=GUARD):
    """Return how many a step takes, on tensors without values."""
    graph = l2o.neural_graph(model, *inputs)
    params = []
    for name, param in model.named_parameters():
        shadow = nn.Parameter(torch.empty_like(param, device="meta"))
        shadow.grad = torch.empty_like(shadow)
        params.append((name, shadow))
    rule = (NeuronRule() if rule is None else rule).to("meta")
    optimizer = l2o.NeuralGraphOpt(params, rule=rule, graph=graph, safety=safety)
    optimizer.step()
    with Launches() as counted:
        optimizer.step()
    return counted.names.total()


def test_fashion_cnn():
    inputs = torch.zeros(2, 1, 28, 28)
    assert launches(fashion_cnn(), inputs) <= 250
    assert launches(fashion_cnn(), inputs, safety=None) <= 205


def test_fashion_cnn_without_a_network():
    rule = l2o.load_rule("base")
    assert launches(fashion_cnn(), torch.zeros(2, 1, 28, 28), rule=rule) <= 175


@pytest.mark.slow
def test_resnet_18():
    model = ResNet18(10, "cifar")
    assert launches(model, torch.zeros(2, 3, 32, 32)) <= 900


@pytest.mark.slow
def test_gpt_2():
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    assert launches(GPT(), tokens) <= 750


class TestDepth:
    """Only what the guard scales one by one grows with depth, large gradients."""

    def test_stacks_do_not_grow_with_it(self):
        shallow, deep = (
            launches(MLP((8, *[300] * depth, 4)), torch.zeros(2, 8)) for depth in (3, 9)
        )
        assert deep - shallow <= 2 * 6

    def test_the_law_can_fail(self):
        rules = l2o.Rule(), l2o.Rule()
        shallow, deep = (
            launches(MLP((8, *[300] * depth, 4)), torch.zeros(2, 8), rule=rule)
            for depth, rule in zip((3, 9), rules, strict=True)
        )
        assert deep - shallow > 2 * 6
