"""Tests of the neuron-level rule, its configuration, its files and its state."""

import pytest
import torch
from torch import nn

import l2o
from l2o.nets import NeuronGNNConfig
from l2o.rule.build import build_rule
from l2o.rule.neuron_config import NeuronRuleConfig
from l2o.rule.neuron_rule import NeuronRule


def trained(rule, steps=3, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
        inputs = torch.randn(6, 5)
    optimizer = l2o.NeuralGraphOpt(model.parameters(), rule=rule, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model, optimizer


def test_a_file_brings_the_rule_back(tmp_path, random_rule):
    config = NeuronRuleConfig(net=NeuronGNNConfig(width=8), momentum_decays=(0.9,))
    rule = random_rule(config, kind=NeuronRule, dtype=torch.float32)
    path = tmp_path / "rule.safetensors"
    l2o.save_rule(rule, path, provenance={"seed": 3})
    found = l2o.load_rule(path)
    assert found.config == config
    first, second = trained(rule)[0], trained(found)[0]
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_its_configuration_builds_it():
    assert isinstance(build_rule(NeuronRuleConfig()), NeuronRule)
    assert isinstance(build_rule(l2o.RuleConfig()), l2o.Rule)


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "advice"),
        [
            ({"momentum_decays": (1.0,)}, "Choose for example 0.9"),
            ({"momentum_decays": ()}, "Add one, for example 0.9"),
            ({"look_ahead": -0.1}, "Choose for example 0.9"),
            ({"step_size": 0.0}, "Choose a positive value"),
        ],
    )
    def test_values_out_of_range(self, values, advice):
        with pytest.raises(ValueError, match=advice):
            NeuronRuleConfig(**values)

    def test_layers_below_zero(self):
        with pytest.raises(ValueError, match="or 0 for none"):
            NeuronGNNConfig(layers=-1)


class TestState:
    def test_it_has_at_most_four_floats_per_entry(self):
        model, optimizer = trained(NeuronRule())
        entries = sum(p.numel() for p in model.parameters())
        kept = sum(
            value.numel()
            for item in optimizer.state.values()
            for value in item.values()
            if value.ndim
        )
        assert kept <= 4 * entries

    def test_bfloat16_stays_near(self):
        wide, _ = trained(NeuronRule(), steps=10)
        narrow, optimizer = trained(NeuronRule(), steps=10, state_dtype=torch.bfloat16)
        for param, other in zip(wide.parameters(), narrow.parameters(), strict=True):
            assert optimizer.state[other]["momenta"].dtype == torch.bfloat16
            torch.testing.assert_close(param, other, rtol=0, atol=0.02)


def test_a_known_horizon_is_read(random_rule):
    rule = random_rule(NeuronRuleConfig(), kind=NeuronRule, dtype=torch.float32)
    before = trained(rule)[0]
    rule.horizon = 10
    after = trained(rule)[0]
    assert not torch.equal(before[0].weight, after[0].weight)


def test_without_messages_the_graph_is_cut(random_rule):
    rule = build_rule(NeuronRuleConfig(net=NeuronGNNConfig(layers=0)))
    trained(rule)
    assert rule.num_weights() < NeuronRule().num_weights()
