"""`total_steps`: updates fall to zero at the end of a run whose length is known."""

import copy
import warnings

import pytest
import torch
from torch import nn

import l2o
from l2o.rule.neuron_config import NeuronRuleConfig
from l2o.rule.neuron_rule import NeuronRule
from l2o.schedules import END_SHARE

RULES = {
    "entry": lambda: l2o.Rule(),
    "neuron": lambda: NeuronRule(NeuronRuleConfig(net=None)),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


def moves(rule, count, *, twin=False, **settings):
    """Return how far a bias moves in each step under one gradient again and again."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = l2o.NeuralGraphOpt(model.parameters(), rule=rule, **settings)
    sizes = []
    for step in range(count):
        if twin and step == count // 2:
            torch.manual_seed(1)
            other = nn.Linear(3, 2)
            fresh = l2o.NeuralGraphOpt(other.parameters(), rule=rule, **settings)
            fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            other.load_state_dict(model.state_dict())
            model, optimizer = other, fresh
        before = model.bias.detach().clone()
        model.weight.grad = torch.ones_like(model.weight)
        model.bias.grad = torch.ones_like(model.bias)
        optimizer.step()
        sizes.append(float((model.bias.detach() - before).abs().max()))
    return torch.tensor(sizes)


def test_updates_fall_in_a_line(rule):
    plain, known = moves(rule, 10), moves(rule, 10, total_steps=10)
    left = 1 - torch.arange(10) / 10
    torch.testing.assert_close(known / plain, left, rtol=1e-3, atol=1e-3)


def test_past_the_end_they_stay_small_and_it_is_said_once(rule):
    with pytest.warns(UserWarning, match="total_steps=4 is over") as caught:
        known = moves(rule, 8, total_steps=4)
    assert len(caught) == 1
    plain = moves(rule, 8)
    expected = torch.full((4,), END_SHARE)
    torch.testing.assert_close((known / plain)[4:], expected, rtol=0.02, atol=0)


def test_nothing_is_said_before(rule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moves(rule, 4, total_steps=4)


def test_a_run_goes_on_where_it_was(rule):
    whole = moves(rule, 10, total_steps=10)
    torch.testing.assert_close(
        moves(rule, 10, total_steps=10, twin=True), whole, rtol=0, atol=1e-6
    )


def test_a_rule_that_is_shared_stays_as_it_was(rule):
    moves(rule, 1, total_steps=5)
    assert rule.horizon is None


def test_a_length_below_one_is_refused():
    with pytest.raises(ValueError, match=r"got total_steps=0\. Leave it out"):
        moves(l2o.Rule(), 1, total_steps=0)


def test_a_length_that_is_no_whole_number_is_refused():
    with pytest.raises(TypeError, match=r"(?s)total_steps.*2\.5"):
        moves(l2o.Rule(), 1, total_steps=2.5)


def test_a_rule_without_a_count_of_steps_is_refused():
    class SignDescent(l2o.AbstractRule):
        step_size = 0.01

        def check(self, graph):
            pass

        def init_state(self, params):
            return {name: {} for name in params}

        def advance(self, state, grads):
            return state

        def forward(self, graph, params, grads, state):
            return {name: -0.01 * grads[name].sign() for name in params}

    with pytest.raises(ValueError, match="total_steps needs a rule whose state"):
        moves(SignDescent(), 1, total_steps=5)
