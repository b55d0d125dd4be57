"""One inner problem in float64 whose losses and slopes are known, for every law."""

from collections import namedtuple

import pytest
import torch

from l2o import neural_graph
from meta_train.estimators import add_meta_gradient
from meta_train.unroll import InnerRun, ProblemStart, RuleOnGraph
from optimizees.functional_task import LossAndGrads

Batch = namedtuple("Batch", "inputs targets")


class Targets:
    """An endless stream of noisy targets, decided by its seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def next(self):
        noise = torch.randn(9, generator=self.generator, dtype=torch.float64)
        return Batch(torch.zeros(0), 3 + 0.1 * noise)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, values):
        self.generator.set_state(values["generator"])


class Quadratic:
    """Half a weighted squared distance from each batch's targets, in float64."""

    curvature = torch.arange(1.0, 10.0, dtype=torch.float64) / 3

    def init_params(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return {
            "0.weight": torch.randn(3, 2, generator=generator, dtype=torch.float64),
            "0.bias": torch.randn(3, generator=generator, dtype=torch.float64),
        }

    def batches(self, seed):
        return Targets(seed)

    def loss(self, params, batch):
        flat = torch.cat([param.flatten() for param in params.values()])
        return (self.curvature * (flat - batch.targets).square()).sum() / 2

    def init_buffers(self, seed):
        return {}

    def loss_and_buffers(self, params, batch, buffers):
        return self.loss(params, batch), buffers

    def loss_and_grads(self, params, batch, buffers=None):
        inputs = {name: item.detach().requires_grad_() for name, item in params.items()}
        with torch.enable_grad():
            loss = self.loss(inputs, batch)
            grads = torch.autograd.grad(loss, list(inputs.values()))
        return LossAndGrads(loss.detach(), dict(zip(inputs, grads, strict=True)), {})


@pytest.fixture
def task():
    return Quadratic()


@pytest.fixture(params=["pooled-shared", "deep-ff"])
def bound(request, configs, random_rule, task):
    """A graph net and FF: estimators know nothing else about a rule."""
    rule = random_rule(configs[request.param])
    graph = neural_graph(task.init_params(0))
    return RuleOnGraph(rule, task, compile=False, graph=graph)


@pytest.fixture
def start(bound, task):
    """Build the same inner run again."""

    def build(length=100):
        return InnerRun(ProblemStart(task, bound, seed=3, length=length))

    return build


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=[False, True], ids=["first", "later"])
def skipped(request):
    """Inner steps before the window: at later ones the state is not zero."""
    return 3 if request.param else 0


@pytest.fixture(scope="session")
def flat():
    """Put gradients in one vector; what theta does not reach has zero."""

    def join(grads, rule):
        pairs = zip(grads, rule.parameters(), strict=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]
        )

    return join


@pytest.fixture(scope="session")
def estimated(flat):
    """Return the meta-gradient that an estimator adds, in one vector."""

    def estimate(config, problem, steps, generator):
        rule = problem.bound.rule
        rule.zero_grad()
        add_meta_gradient(config, problem, steps, generator)
        return flat([weight.grad for weight in rule.parameters()], rule)

    return estimate


@pytest.fixture(scope="session")
def assert_agree():
    """Compare two gradients relative to the largest entry: to 1e-9, as in all laws."""

    def check(found, expected, *, tolerance=1e-9):
        assert expected.abs().max() > 0
        torch.testing.assert_close(
            found, expected, rtol=0, atol=tolerance * float(expected.abs().max())
        )

    return check
