"""A step is taken as a whole, whatever comes in between."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt, Rule
from l2o.optim.interrupts import uninterrupted


@pytest.fixture(autouse=True)
def heeded():
    """Let SIGINT interrupt, also where the shell that started the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(Rule):
    """A rule during which somebody presses Ctrl-C."""

    times = 1

    def forward(self, *args):
        for _ in range(self.times):
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(*args)


@pytest.fixture
def step(random_rule, rule):
    """Take a step with some rule; return parameters and averages."""

    def take(kind):
        own = random_rule(rule.config, dtype=torch.float32, kind=kind)
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = NeuralGraphOpt(layer.parameters(), rule=own)
        layer(torch.ones(4, 3)).sum().backward()
        try:
            optimizer.step()
        finally:
            take.weight = layer.weight.detach()
            take.state = optimizer.state.get(layer.weight)
        return take.weight

    return take


def test_an_interrupt_comes_after_the_step(step):
    expected = step(Rule)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        step(Interrupted)
    assert torch.equal(step.weight, expected)
    assert step.state["step"] == 1
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_one_does_not_wait():
    reached = []

    def block():
        with uninterrupted():
            for number in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == [0]


def test_other_threads_pass(step):
    found = []
    thread = threading.Thread(target=lambda: found.append(step(Rule)))
    thread.start()
    thread.join()
    assert torch.equal(found[0], step(Rule))


def test_the_step_count_goes_on_for_ever(rule):
    layer = nn.Linear(3, 2)
    optimizer = NeuralGraphOpt(layer.parameters(), rule=rule)
    for past in (0, 2**24, 2**31):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        optimizer.state[layer.weight]["step"].fill_(past)
        optimizer.step()
        assert int(optimizer.state[layer.weight]["step"]) == past + 1
        assert layer.weight.isfinite().all()
