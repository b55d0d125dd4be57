"""A law: threads that take a tile each find what one thread finds."""

import pytest
import torch
from torch import nn

import l2o
from l2o.nets.thread_map import iterate_in_threads, thread_map
from l2o.rule import rule as rules


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)


@pytest.fixture(params=["default", "default-ff"])
def problem(request, monkeypatch):
    """A rule, a network in a dozen tiles, gradients and a state."""
    monkeypatch.setattr(rules, "TILE_ENTRIES", 2**11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = l2o.Rule(l2o.PRESETS[request.param]).double()
        for weight in rule.net.entry.last.parameters():
            nn.init.normal_(weight)
        model = nn.Sequential(
            nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(160, 50)
        ).double()
        params = {name: p.detach() for name, p in model.named_parameters()}
        grads = {name: torch.randn_like(p) for name, p in params.items()}
    graph = l2o.neural_graph(model, torch.zeros(1, 3, 4, 4).double())
    state = rule.advance(rule.init_state(params), grads)
    return rule, graph, params, grads, state


def updates(problem):
    rule, *others = problem
    with torch.no_grad():
        return rule(*others)


@pytest.mark.parametrize("limit", [None, 0], ids=["kept", "again"])
def test_threads_change_nothing(problem, two_threads, limit):
    problem[0].memory_limit = limit
    found = updates(problem)
    torch.set_num_threads(1)
    expected = updates(problem)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_results_come_in_order_from_threads_of_their_own(two_threads):
    def number_and_threads(item):
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        found = thread_map(number_and_threads, range(100), torch.device("cpu"))
    assert found == [(item, 1, False) for item in range(100)]
    assert torch.get_num_threads() == 2


def test_what_belongs_to_this_thread_stays_in_it(two_threads):
    """Autograd's switch, and a transform of torch.func."""

    def threads(item):
        return torch.get_num_threads()

    device = torch.device("cpu")
    with torch.enable_grad():
        assert thread_map(threads, range(3), device) == [2, 2, 2]

    def transformed(value):
        with torch.no_grad():
            assert thread_map(threads, range(3), device) == [2, 2, 2]
        return value

    torch.func.vmap(transformed)(torch.zeros(2))


def test_an_error_in_a_thread_is_raised(two_threads):
    def fail(item):
        raise ValueError(f"item {item}")

    with torch.no_grad(), pytest.raises(ValueError, match="item 0"):
        thread_map(fail, range(3), torch.device("cpu"))


@pytest.mark.parametrize(
    ("how", "expected"), [(iterate_in_threads, 1), (thread_map, 3)]
)
def test_a_result_need_not_wait_for_the_last(set_threads, how, expected):
    set_threads(1)
    computed = []
    with torch.no_grad():
        results = iter(how(computed.append, range(3), torch.device("cpu")))
        next(results)
    assert len(computed) == expected
