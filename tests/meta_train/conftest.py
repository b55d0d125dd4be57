import signal
from functools import cache

import pytest

from meta_train.config import parse_config
from optimizees import task_loader

TASK = {"name": "fashion-mlp", "image_size": 7, "batch_size": 16}

VALIDATION = {"every": 2, "steps": 3, "seeds": [9001], "tasks": [TASK]}

RULES = {
    "ff": "default-ff",
    "ng-gnn": {
        "net": {
            "kind": "ng_gnn",
            "width": 6,
            "layers": 1,
            "head": {"kind": "ff", "width": 4, "layers": 1},
        },
    },
}


load_once = cache(task_loader.load_fashion_mnist)


@pytest.fixture(autouse=True)
def data_is_read_once(monkeypatch):
    """Decompressing the images takes longer than a tiny run."""
    monkeypatch.setattr(task_loader, "load_fashion_mnist", load_once)


@pytest.fixture
def tiny():
    """Build a run that takes a fraction of a second."""

    def build(rule="ff", *, validation=None, **changes):
        values = {
            "name": "tiny",
            "rule": RULES[rule] if isinstance(rule, str) else rule,
            "outer_steps": 3,
            "num_tasks": 2,
            "steps_per_outer": 2,
            "unroll": [3, 12],
            "tasks": [TASK, {**TASK, "image_size": 14, "batch_size": 8}],
            "estimator": {"kind": "first_order", "window": 2, "replay": 0.5},
            "meta_optimizer": {"warmup": 2},
            "validation": {**VALIDATION, **(validation or {})},
            "device": "cpu",
            "compile": False,
            "data": "embedded",
        }
        return parse_config({**values, **changes}, origin="the tests")

    return build


@pytest.fixture(autouse=True)
def signals_that_arrive():
    """Let SIGINT and SIGTERM through, which a background job may have to ignore."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
