import pytest
import torch

from l2o import PRESETS, Rule, learned_step, neural_graph, with_theta


class WithDecay(Rule):
    """A rule that also learns something outside its forward pass."""

    def __init__(self):
        super().__init__(PRESETS["default-ff"])
        self.decay = torch.nn.Parameter(torch.tensor(0.5))

    def advance(self, state, grads):
        faded = {name: self.decay * grad for name, grad in grads.items()}
        return super().advance(state, faded)


@pytest.fixture(params=["default", "default-ff"])
def rule(request, random_rule):
    return random_rule(PRESETS[request.param])


@pytest.fixture(scope="module")
def params():
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (4, 2), "0.bias": (4,), "2.weight": (3, 4)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def step(rule, params):
    """Take a step along the parameters themselves."""
    new, _ = learned_step(rule, neural_graph(params), params, params, {})
    return new


def theta_of(rule, factor=1.0):
    return {
        name: factor * weight.detach().clone()
        for name, weight in rule.named_parameters()
    }


def test_it_steps_as_if_theta_had_been_loaded(rule, params):
    theta = theta_of(rule, 0.8)
    before = step(rule, params)
    found = step(with_theta(rule, theta), params)
    after = step(rule, params)
    rule.load_state_dict(theta)
    expected = step(rule, params)
    for name in params:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=0)
        assert torch.equal(before[name], after[name])
        assert (found[name] - before[name]).abs().max() > 1e-6


def test_weights_left_out_are_the_rules_own(rule, params):
    theta = theta_of(rule, 0.8)
    some = dict(list(theta.items())[:2])
    found = step(with_theta(rule, some), params)
    expected = step(with_theta(rule, {**theta_of(rule), **some}), params)
    for name in params:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=0)


def test_autograd_reaches_theta_and_not_the_rule(rule, params):
    theta = {name: weight.requires_grad_() for name, weight in theta_of(rule).items()}
    loss = sum(
        new.square().sum() for new in step(with_theta(rule, theta), params).values()
    )
    slopes = torch.autograd.grad(loss, list(theta.values()), retain_graph=True)
    assert any(slope.abs().max() > 0 for slope in slopes)
    own = torch.autograd.grad(loss, list(rule.parameters()), allow_unused=True)
    assert all(slope is None for slope in own)


def test_a_population_of_rules_steps_at_once(rule, params):
    population = [theta_of(rule, factor) for factor in (0.8, 1.0, 1.2)]
    stacked = {
        name: torch.stack([theta[name] for theta in population])
        for name in population[0]
    }
    together = torch.func.vmap(lambda theta: step(with_theta(rule, theta), params))(
        stacked
    )
    for index, theta in enumerate(population):
        alone = step(with_theta(rule, theta), params)
        for name, value in alone.items():
            torch.testing.assert_close(
                together[name][index], value, rtol=1e-9, atol=1e-12
            )


def test_every_method_sees_theta(params):
    rule = WithDecay().double()
    theta = {"decay": torch.tensor(2.0, dtype=torch.float64)}
    given = with_theta(rule, theta)
    state = given.advance(given.init_state(params), params)
    own = rule.advance(rule.init_state(params), params)
    ratio = state["0.weight"]["momenta"] / own["0.weight"]["momenta"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0), rtol=1e-9, atol=0)
    assert given.step_size == rule.step_size


def test_a_foreign_name_is_refused(rule):
    with pytest.raises(ValueError, match=r"got \['nett'\].*rule\.named_parameters\(\)"):
        with_theta(rule, {"nett": torch.zeros(())})
