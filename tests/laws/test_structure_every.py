"""Laws of `structure_every`: which steps run the network, and what the others do."""

import copy

import pytest
import torch
from oracles import find_directions

import l2o
from l2o import NeuralGraphOpt, Rule, RuleConfig
from l2o.rule.config import NominalHeadConfig

EVERY = 3


@pytest.fixture
def rule():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = RuleConfig(head=NominalHeadConfig(full_fan_in=9.0))
        rule = Rule(config).double()
        for weight in rule.net.entry.last.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return rule


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 3),
        ).double()


def give_gradients(model, step):
    generator = torch.Generator().manual_seed(step)
    for param in model.parameters():
        noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = noise


def build(model, rule, every, **settings):
    graph = l2o.neural_graph(model, torch.zeros(1, 2, 4, 4).double())
    named = model.named_parameters()
    return NeuralGraphOpt(
        named, rule=rule, graph=graph, structure_every=every, **settings
    )


def run(model, optimizer, first, last):
    """Take steps `first` to `last` and return the movement of the last."""
    for step in range(first, last + 1):
        before = [param.detach().clone() for param in model.parameters()]
        give_gradients(model, step)
        optimizer.step()
    after = model.parameters()
    return [new.detach() - old for old, new in zip(before, after, strict=True)]


def gap(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("safety", [l2o.SafetyConfig(), None], ids=["net", "bare"])
def test_a_step_that_is_due_is_the_whole_rule(model, rule, safety):
    """And one that is not due is something else: the control."""
    gaps = []
    for last in range(1, 2 * EVERY + 1):
        sparing = copy.deepcopy(model)
        optimizer = build(sparing, rule, EVERY, safety=safety)
        run(sparing, optimizer, 1, last - 1) if last > 1 else None
        whole = copy.deepcopy(sparing)
        other = build(whole, rule, 1, safety=safety)
        other.load_state_dict(optimizer.state_dict())
        gaps.append(
            gap(run(sparing, optimizer, last, last), run(whole, other, last, last))
        )
    due = gaps[::EVERY]
    assert max(due) == 0.0
    assert min(set(gaps) - set(due)) > 1e-4


def test_a_frozen_parameter_does_not_call_for_the_network(model, rule, monkeypatch):
    calls = []
    propose = Rule.propose
    monkeypatch.setattr(
        Rule, "propose", lambda *args: calls.append(1) or propose(*args)
    )
    model[0].bias.requires_grad_(False)
    optimizer = build(model, rule, EVERY)
    for step in range(1, 2 * EVERY + 1):
        give_gradients(model, step)
        model[0].bias.grad = None
        optimizer.step()
    assert len(calls) == 2


def test_between_them_kept_outputs_mix_fresh_directions(model, rule):
    optimizer = build(model, rule, EVERY)
    run(model, optimizer, 1, EVERY)
    found = run(model, optimizer, EVERY + 1, EVERY + 2)
    units = rule.units(optimizer.graph)
    assert min(units.values()) < 1
    for (name, param), moved in zip(model.named_parameters(), found, strict=True):
        state = optimizer.state[param]
        outputs = state["outputs"].double().movedim(0, -1)
        directions = find_directions(param.grad, state)
        expected = rule.head(outputs, directions, units[name])
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-12)


def test_a_run_that_stopped_goes_on_bit_for_bit(model, rule):
    stopped = copy.deepcopy(model)
    run(model, build(model, rule, EVERY), 1, 8)
    first = build(stopped, rule, EVERY)
    run(stopped, first, 1, 5)
    second = build(stopped, rule, EVERY)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(stopped, second, 6, 8)
    for found, expected in zip(stopped.parameters(), model.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_a_run_that_forgets_them_goes_on_otherwise(model, rule):
    stopped = copy.deepcopy(model)
    run(model, build(model, rule, EVERY), 1, 8)
    first = build(stopped, rule, EVERY)
    run(stopped, first, 1, 5)
    saved = copy.deepcopy(first.state_dict())
    for item in saved["state"].values():
        del item["outputs"]
    second = build(stopped, rule, EVERY)
    second.load_state_dict(saved)
    run(stopped, second, 6, 8)
    assert gap(stopped.parameters(), model.parameters()) > 1e-6


def test_a_step_that_is_skipped_leaves_all_as_it_was(model, rule):
    optimizer = build(model, rule, EVERY)
    run(model, optimizer, 1, EVERY)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    give_gradients(model, 9)
    next(model.parameters()).grad[0] = torch.nan
    optimizer.step()
    torch.testing.assert_close(
        (model.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0
    )
    assert optimizer.diagnostics().skipped == 1


def test_outputs_that_are_not_finite_are_not_kept(model, rule):
    optimizer = build(model, rule, EVERY)
    run(model, optimizer, 1, EVERY)
    before = [optimizer.state[p]["outputs"].clone() for p in model.parameters()]
    with torch.no_grad():
        next(rule.net.entry.last.parameters()).fill_(torch.nan)
    run(model, optimizer, EVERY + 1, EVERY + 1)  # the network runs
    assert optimizer.diagnostics().skipped == 1
    after = [optimizer.state[p]["outputs"] for p in model.parameters()]
    assert all(map(torch.equal, after, before))
    run(model, optimizer, EVERY + 2, EVERY + 2)
    assert optimizer.diagnostics().skipped == 1


def test_outputs_take_16_bytes_a_parameter(model, rule):
    optimizer = build(model, rule, EVERY)
    run(model, optimizer, 1, 1)
    for param in model.parameters():
        kept = optimizer.state[param]["outputs"]
        assert kept.numel() * kept.element_size() == 16 * param.numel()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structure_every": 0}, "must be a whole number from 1; got .*=0"),
        ({"structure_every": -1}, "must be a whole number from 1; got .*=-1"),
        ({"structure_every": 2, "compile": True}, "needs compile=False"),
        (
            {"structure_every": 2, "rule": Rule(l2o.PRESETS["paper-ff"])},
            "needs a rule whose head mixes directions",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=message):
        NeuralGraphOpt(layer.parameters(), **settings)
