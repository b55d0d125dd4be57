import dataclasses

import pytest
import torch

from benchmarks.inr.models import Sizes, Variant, build_classifier
from benchmarks.inr.tasks import AbstractInrTask, Classification, Measure
from benchmarks.inr.training import Run, TrainingConfig, finish
from optimizees.zoo.inr_augmentations import AugmentationConfig

CONFIG = TrainingConfig(epochs=3, batch_size=8, warmup_steps=3)


@pytest.fixture
def start(splits):
    """Return a fresh run of a small perceptron with dropout and augmentation."""

    def build(config=CONFIG, task=None, seed=0, part=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_classifier(Variant(model="mlp"), Sizes(), dropout=0.3)
        return Run(
            Classification() if task is None else task,
            model,
            splits,
            config,
            augmentation=AugmentationConfig(),
            part=part,
            seed=seed,
        )

    return build


def weights(run):
    return torch.cat([weight.flatten() for weight in run.model.parameters()])


def assert_same(first, second):
    """Two finished runs have the same weights and the same history, bit for bit."""
    assert torch.equal(weights(first), weights(second))
    without_times = [
        [{**epoch, "seconds": 0} for epoch in run.history] for run in (first, second)
    ]
    assert without_times[0] == without_times[1]


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_run_that_was_cut_goes_on_bit_for_bit(start, tmp_path, stop):
    whole = start()
    outcome = finish(whole, tmp_path / "whole.pt", "whole", print)
    cut = start(dataclasses.replace(CONFIG, save_seconds=0.0))

    def say(_):
        """Interrupt where a line is printed, or below after some steps."""

    steps = 0
    take = cut.step

    def step():
        nonlocal steps
        if steps == stop:
            raise KeyboardInterrupt
        steps += 1
        take()

    cut.step = step
    with pytest.raises(KeyboardInterrupt):
        finish(cut, tmp_path / "cut.pt", "cut", say)
    again = start()
    lines = []
    found = finish(again, tmp_path / "cut.pt", "cut", lines.append)
    assert lines[0] == f"cut: goes on after {stop} steps"
    assert_same(whole, again)
    assert found.test == outcome.test


def test_that_law_can_fail(start, tmp_path):
    first, second = start(), start(seed=1)
    finish(first, tmp_path / "first.pt", "first", print)
    finish(second, tmp_path / "second.pt", "second", print)
    with pytest.raises(AssertionError):
        assert_same(first, second)


def test_the_global_generator_is_left_alone(start, tmp_path):
    before = torch.get_rng_state()
    finish(start(), tmp_path / "run.pt", "run", print)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_step_size_rises_and_falls(start, tmp_path):
    run = start(dataclasses.replace(CONFIG, epochs=4, decay="cosine"))
    sizes, take = [], run.step

    def step():
        take()
        sizes.append(run.optimizer.param_groups[0]["lr"])

    run.step = step
    finish(run, tmp_path / "run.pt", "run", print)
    assert sizes[:4] == pytest.approx(
        [CONFIG.lr / 3, CONFIG.lr * 2 / 3, *[CONFIG.lr] * 2]
    )
    assert sizes[4:] == sorted(sizes[4:], reverse=True)
    fall = sizes[3:]  # half a cosine is its own mirror image
    mirrored = [CONFIG.lr - size for size in reversed(fall[1:])]
    assert fall[1:] == pytest.approx(mirrored)


class Scripted(AbstractInrTask):
    """A task whose scores are given; the test set is told by its size."""

    unit = "nats"

    def __init__(self, scores):
        self.scores = list(scores)

    def targets(self, data):
        return data.labels

    def losses(self, model, batch, wanted):
        return model(batch).square().mean(1), None

    def evaluate(self, model, data):
        is_validation = int(data.indices[0]) == 20
        score = self.scores.pop(0) if is_validation else 0.0
        return Measure(loss=-score, score=score, accuracy=None)


def test_the_best_epoch_is_tested(start, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=4)
    run = start(config, Scripted([0.1, 0.3, 0.3, 0.2]))
    kept = []

    def say(_):
        kept.append(weights(run).clone())

    outcome = finish(run, tmp_path / "run.pt", "run", say)
    assert outcome.best_epoch == 2
    assert len(outcome.epochs) == 4
    assert torch.equal(weights(run), kept[1])
    assert outcome.steps == 4 * 3


def test_patience_ends_a_run(start, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=9, patience=2)
    run = start(config, Scripted([0.1, 0.3, 0.2, 0.3, 0.9]))
    assert len(finish(run, tmp_path / "run.pt", "run", print).epochs) == 4


def test_time_ends_a_run(start, tmp_path):
    run = start(dataclasses.replace(CONFIG, seconds=1e-6))
    assert len(finish(run, tmp_path / "run.pt", "run", print).epochs) == 1


def test_the_step_size_warms_up(start):
    run = start()
    rates = []
    for _ in range(5):
        run.step()
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3])


def test_parts_of_a_batch_add_up(start, splits):
    """Without dropout it matters little how a batch is cut."""
    gradients = []
    for part in (None, 3):
        run = start(part=part)
        run.model.double()
        run.splits = dataclasses.replace(splits, train=_doubled(splits.train))
        run.model.apply(_without_dropout)
        run.step()
        gradients.append(run.model.body.state_dict())
        found = torch.cat([w.grad.flatten() for w in run.model.parameters()])
        gradients[-1] = found
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def _doubled(data):
    networks = {name: weight.double() for name, weight in data.networks.items()}
    return dataclasses.replace(data, networks=networks)


def _without_dropout(module):
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0


def test_a_damaged_checkpoint_is_refused(start, tmp_path):
    (tmp_path / "run.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Delete it to start again"):
        finish(start(), tmp_path / "run.pt", "run", print)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"lr": 0.0}, {"seconds": -1.0}])
def test_settings_must_make_sense(settings):
    with pytest.raises(ValueError, match="Raise what is not"):
        TrainingConfig(**settings)
