"""Every estimator makes a rule better; with its sign turned, worse."""

import pytest
import torch

from meta_train import inner_problem
from meta_train.loop import MetaTrainer
from meta_train.validation import validate

ESTIMATORS = {
    "one_step": {"kind": "one_step"},
    "first_order": {"kind": "first_order", "window": 10, "objective": "mean"},
    "tbptt": {"kind": "tbptt", "window": 10},
    "es": {"kind": "es", "pairs": 2, "sigma": 0.1, "stacked": True},
    "pes": {"kind": "pes", "pairs": 2, "sigma": 0.1, "stacked": True},
    "nres": {"kind": "nres", "pairs": 2, "sigma": 0.1, "stacked": True},
}


@pytest.fixture
def trainer(tiny, tmp_path):
    """Start from an Adam whose steps are far too short; its bias can mend that."""

    def build(estimator):
        config = tiny(
            rule={
                "net": {"kind": "ff", "width": 2, "layers": 1},
                "head": {"kind": "nominal", "step_size": 3e-4},
            },
            trained=["net.entry.last.bias"],
            estimator=estimator,
            num_tasks=1,
            steps_per_outer=10,
            unroll=[20, 20],
            outer_steps=6,
            meta_optimizer={"lr": 0.3, "warmup": 0, "weight_decay": 0.0},
            validation={"every": 100, "steps": 1, "seeds": [1]},
        )
        return MetaTrainer(config, tmp_path)

    return build


def loss_after_training(trainer):
    task = trainer.config.tasks[0]
    (found,) = validate(
        trainer.builder.task(task),
        trainer.builder.bound(task),
        ["validation"],
        seeds=(7,),
        steps=20,
    )
    return found.loss


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[] if name in ("one_step", "nres") else pytest.mark.slow
        )
        for name in ESTIMATORS
    ],
)
def test_it_finds_longer_steps(trainer, name):
    trainer = trainer(ESTIMATORS[name])
    before = loss_after_training(trainer)
    for _ in range(6):
        trainer.meta_step()
    assert loss_after_training(trainer) < before - 0.02


def test_the_law_can_fail(trainer, monkeypatch):
    original = inner_problem.add_meta_gradient

    def turned(config, problem, *args):
        weight = next(w for w in problem.bound.rule.parameters() if w.requires_grad)
        kept = weight.grad.clone()
        progress = original(config, problem, *args)
        weight.grad = 2 * kept - weight.grad
        return progress

    monkeypatch.setattr(inner_problem, "add_meta_gradient", turned)
    trainer = trainer(ESTIMATORS["nres"])
    before = loss_after_training(trainer)
    for _ in range(6):
        trainer.meta_step()
    assert loss_after_training(trainer) > before
    assert torch.isfinite(trainer.trained[0]).all()
