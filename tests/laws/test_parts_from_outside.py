"""Parts of a rule that the library does not know: each takes a step with the others."""

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt, Rule, RuleConfig, save_rule
from l2o.config import frozen_config
from l2o.nets import FeedForwardConfig
from l2o.rule import (
    Averages,
    GradientConfig,
    MomentaConfig,
    NominalHeadConfig,
    WhitenedConfig,
)

FF = FeedForwardConfig(width=8, layers=1)


@frozen_config
class SignConfig:
    """A direction: the sign of the gradient, as in signSGD."""

    kind: str = "sign"

    def build(self, averages):
        return Sign()


class Sign:
    rows = ("sign",)
    has_unit_size = True

    def prepare(self, graph, grads, state):
        return {}

    def part(self, values, root, prepared):
        return torch.sign, values.main[1:2]


@frozen_config
class RawConfig:
    """Features: the directions and nothing else."""

    kind: str = "raw"

    def build(self, directions):
        return Raw(len(directions))


class Raw:
    num_context = 0
    num_scales = 0
    uses_directions = True

    def __init__(self, num_features):
        self.num_features = num_features

    def measured(self, values, directions):
        return []

    def context(self, scales, steps, shapes):
        return steps.new_zeros(len(shapes), 0)

    def __call__(self, values, directions, scales):
        return directions.steps.clone()


@frozen_config
class RowConfig:
    """A head: one row of the directions, scaled by one output."""

    kind: str = "row"
    row: str = "adam"
    step_size: float = 0.1

    def build(self, directions):
        return Row(self, directions)


class Row:
    num_outputs = 1
    uses_directions = True
    starts_at_zero = True

    def __init__(self, config, directions):
        self.config, self.row = config, directions.row(config.row)

    def units(self, graph):
        return dict.fromkeys(graph.shapes, 1.0)

    def __call__(self, outputs, directions, unit=1.0):
        factor = torch.exp(outputs[..., 0])
        return -self.config.step_size * unit * factor * directions.steps[self.row]


@frozen_config
class LinearConfig:
    """A network: one linear map per entry."""

    kind: str = "linear"

    def build(self, sizes):
        return LinearNet(sizes)


class LinearNet(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.last = nn.Linear(sizes.num_features, sizes.num_outputs)

    def check(self, graph):
        pass

    def forward(self, graph, entries, context):
        for tile in entries.tiles.owned:
            entries.write(tile, self.last(entries.read(tile)))

    def zero_last(self):
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)


WITH_SIGN = (GradientConfig(), MomentaConfig(), SignConfig())
PARTS = {
    "direction": RuleConfig(net=FF, directions=(*WITH_SIGN, WhitenedConfig())),
    "features": RuleConfig(net=FF, features=RawConfig()),
    "head": RuleConfig(net=FF, head=RowConfig()),
    "network": RuleConfig(net=LinearConfig()),
    "averages": RuleConfig(net=FF, averages=Averages(momentum_decays=(0.9, 0.99))),
    "all": RuleConfig(
        net=LinearConfig(),
        features=RawConfig(),
        head=RowConfig(row="sign"),
        directions=WITH_SIGN,
        averages=Averages(momentum_decays=(0.9,)),
    ),
}


def train(rule, steps=8, **settings):
    """Train a small network; return its losses and its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs = torch.randn(32, 4)
    targets = inputs[:, :2].tanh()
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule, **settings)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, optimizer


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("settings", [{}, {"state_dtype": torch.bfloat16}])
def test_each_part_takes_steps(name, settings):
    losses, optimizer = train(Rule(PARTS[name]), **settings)
    assert losses[-1] < losses[0]
    num_momenta = PARTS[name].averages.num_momenta
    assert all(len(item["momenta"]) == num_momenta for item in optimizer.state.values())


def test_what_a_part_says_is_what_happens():
    """An untrained rule with the head `row` and the direction `sign` is signSGD."""
    rule = Rule(PARTS["all"])
    torch.manual_seed(0)
    param = nn.Parameter(torch.randn(3, 2))
    before, grad = param.detach().clone(), torch.randn(3, 2)
    optimizer = NeuralGraphOpt([param], rule=rule)
    param.grad = grad
    optimizer.step()
    torch.testing.assert_close(param.detach(), before - 0.1 * grad.sign())


@pytest.mark.parametrize("name", ["direction", "features", "head", "network", "all"])
def test_rule_files_refuse_what_they_cannot_name(name, tmp_path):
    with pytest.raises(TypeError, match="whose parts rule files name"):
        save_rule(Rule(PARTS[name]), tmp_path / "rule.safetensors")
    assert not list(tmp_path.iterdir())


def test_rule_files_take_what_the_library_knows(tmp_path):
    save_rule(Rule(PARTS["averages"]), tmp_path / "rule.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": (GradientConfig(),)}, "needs the row 'adam'"),
        ({"directions": (GradientConfig(), GradientConfig())}, "different names"),
        ({"averages": Averages(momentum_decays=(0.5,))}, "momentum of decay 0.9"),
        ({"head": NominalHeadConfig(base="whitened"), "directions": WITH_SIGN}, "row"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Rule(RuleConfig(net=FF, **settings))
