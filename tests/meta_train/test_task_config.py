import pytest
import torch

from meta_train.config import parse_config
from meta_train.task_config import call_factory
from optimizees import Task

MODULE = """
from optimizees import load_task

def small():
    return load_task("fashion-mlp", image_size=7, batch_size=4, data="embedded")

def placed(device):
    assert device.type == "cpu"
    return small()

def wrong():
    return "no task"
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of one's own in the working directory."""
    (tmp_path / "own_tasks_of_a_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_tasks_of_a_test"


@pytest.mark.parametrize("function", ["small", "placed"])
def test_a_factory_is_called(module, function):
    task = call_factory(f"{module}:{function}", torch.device("cpu"))
    assert isinstance(task, Task)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none:small", "Run from the directory that holds the module"),
        ("{}:none", "Run from the directory that holds the module"),
        ("{}:wrong", "got str from .*Return the task itself"),
    ],
)
def test_what_is_no_factory_is_refused(module, name, message):
    with pytest.raises(ValueError, match=message):
        call_factory(name.format(module), torch.device("cpu"))


@pytest.mark.parametrize("name", ["", "module", ":function", "module:"])
def test_its_form_is_checked_when_the_config_is_read(name):
    values = {"name": "a", "tasks": [{"kind": "factory", "factory": name}]}
    with pytest.raises(ValueError, match="must be module:function"):
        parse_config(values, origin="here")


@pytest.mark.parametrize("name", ["fashion-autoencoder", "text-gpt"])
@pytest.mark.parametrize(
    "estimator",
    [
        {"kind": "first_order", "window": 2},
        {"kind": "tbptt", "window": 2},
        {"kind": "nres", "stacked": True},
    ],
    ids=lambda value: value["kind"],
)
def test_every_named_task_can_be_meta_trained_on(
    name, estimator, tiny, tmp_path, monkeypatch
):
    """Second derivatives and lanes included; tasks of the paper stand elsewhere."""
    from meta_train.loop import MetaTrainer

    config = tiny(
        tasks=[{"name": name, "batch_size": 2}],
        estimator=estimator,
        num_tasks=1,
        unroll=[4, 4],
        outer_steps=1,
        validation={
            "every": 9,
            "steps": 1,
            "seeds": [1],
            "tasks": [{"name": "fashion-mlp", "image_size": 7}],
        },
    )
    trainer = MetaTrainer(config, tmp_path)
    before = [weight.detach().clone() for weight in trainer.trained]
    assert torch.isfinite(torch.tensor(trainer.meta_step()))
    assert any(
        not torch.equal(weight, past)
        for weight, past in zip(trainer.trained, before, strict=True)
    )
