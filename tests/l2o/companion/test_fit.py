"""The training loop of companion networks: exact, resumable, selected on validation."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o.companion import (
    AbstractObjective,
    Classification,
    FitConfig,
    NetworkSet,
    Regression,
    Shares,
    evaluate,
    fit,
    layered_graph,
    stack_networks,
)
from l2o.companion.baselines import BaselineClassifier, BaselinePredictor, MLPConfig

GRAPH = layered_graph({"0.weight": (4, 2), "0.bias": (4,), "1.weight": (1, 4)})
CONFIG = FitConfig(epochs=3, batch_size=8, warmup_steps=3)


def networks(count, seed):
    """Networks of two classes, which the mean of a tensor tells apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    params = {
        name: torch.randn(count, *shape, generator=generator)
        for name, shape in GRAPH.shapes.items()
    }
    params["0.weight"] += labels.view(-1, 1, 1) - 0.5
    return NetworkSet(stack_networks(GRAPH, params), labels)


TRAIN, VALIDATION = networks(20, 0), networks(6, 1)


def noisy(batch, generator):
    """Draw from the generator of the run, as augmentation does."""
    params = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in batch.params.items()
    }
    return stack_networks(GRAPH, params)


def build(seed=0, dropout=0.3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = MLPConfig(width=8, layers=1, dropout=dropout)
        return BaselineClassifier(config, GRAPH, num_classes=2)


def train(config=CONFIG, model=None, **options):
    """Return a trained model and what `fit` says of it."""
    model = build() if model is None else model
    options = {"augment": noisy, "objective": Classification()} | options
    return model, fit(model, TRAIN, VALIDATION, config=config, **options)


def assert_same(first, second):
    """Two runs led to the same weights and the same losses, bit for bit."""
    (model, fitted), (other, refitted) = first, second
    for weight, own in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, own)
    timeless = [
        [replace(epoch, seconds=0.0) for epoch in found.epochs]
        for found in (fitted, refitted)
    ]
    assert timeless[0] == timeless[1]


class Interrupted(Classification):
    """Stops a run in the middle of a step."""

    def __init__(self, steps):
        self.left = steps

    def losses(self, model, batch, targets):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().losses(model, batch, targets)


class Scripted(AbstractObjective):
    """Scores that are given."""

    def __init__(self, scores):
        self.given = list(scores)

    def losses(self, model, batch, targets):
        return model(batch).square().mean(1)

    def scores(self, model, parts):
        return {"score": self.given.pop(0)}


class TestResuming:
    @pytest.mark.parametrize("steps", [1, 3, 7])
    def test_a_run_that_was_cut_continues_bit_for_bit(self, steps, tmp_path):
        path, often = tmp_path / "run.pt", replace(CONFIG, save_seconds=0.0)
        with pytest.raises(KeyboardInterrupt):
            train(often, checkpoint=path, objective=Interrupted(steps))
        lines = []
        again = train(often, checkpoint=path, report=lines.append)
        assert lines[0] == f"continues after {steps} steps"
        assert_same(again, train())

    def test_the_law_can_fail(self):
        with pytest.raises(AssertionError):
            assert_same(train(), train(seed=1))

    def test_a_finished_run_is_not_repeated(self, tmp_path):
        first = train(checkpoint=tmp_path / "run.pt")
        lines = []
        again = train(checkpoint=tmp_path / "run.pt", report=lines.append)
        assert lines == ["continues after 9 steps"]
        assert_same(first, again)

    @pytest.mark.parametrize(
        "changes",
        [{"seed": 1}, {"part": 3}, {"config": replace(CONFIG, lr=0.1)}],
        ids=str,
    )
    def test_a_checkpoint_of_another_run_is_refused(self, changes, tmp_path):
        train(checkpoint=tmp_path / "run.pt")
        with pytest.raises(ValueError, match="Delete it to start again"):
            train(checkpoint=tmp_path / "run.pt", **changes)

    def test_a_damaged_checkpoint_is_refused(self, tmp_path):
        (tmp_path / "run.pt").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="Delete it to start again"):
            train(checkpoint=tmp_path / "run.pt")


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    train()
    assert torch.equal(torch.get_rng_state(), before)


class TestSelection:
    def test_the_best_epoch_is_kept(self):
        scores = [0.1, 0.3, math.nan, 0.3, 0.2]
        config = replace(CONFIG, epochs=5)
        model, fitted = train(config, objective=Scripted(scores))
        assert (fitted.best_epoch, len(fitted.epochs)) == (2, 5)
        other, _ = train(replace(config, epochs=2), objective=Scripted(scores))
        for weight, own in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(weight, own)
        assert (fitted.steps, fitted.network_passes) == (5 * 3, 5 * 20)
        assert not model.training

    def test_patience_ends_a_run(self):
        config = replace(CONFIG, epochs=9, patience=2)
        _, fitted = train(config, objective=Scripted([0.1, 0.3, 0.2, 0.3, 0.9]))
        assert len(fitted.epochs) == 4

    def test_time_ends_a_run(self):
        assert len(train(replace(CONFIG, seconds=1e-6))[1].epochs) == 1

    def test_curves_decide_nothing(self):
        plain = train()
        curved = train(curves={"test": VALIDATION})
        assert curved[1].epochs[0].curves["test"] == curved[1].epochs[0].validation
        for weight, own in zip(
            plain[0].parameters(), curved[0].parameters(), strict=True
        ):
            assert torch.equal(weight, own)


class TestSchedule:
    @pytest.fixture
    def rates(self, monkeypatch):
        found, step = [], torch.optim.AdamW.step

        def watched(self, *args, **options):
            found.append(self.param_groups[0]["lr"])
            return step(self, *args, **options)

        monkeypatch.setattr(torch.optim.AdamW, "step", watched)
        return found

    def test_the_step_size_warms_up(self, rates):
        train()
        assert rates[:5] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3])

    def test_the_step_size_falls_along_a_cosine(self, rates):
        train(replace(CONFIG, epochs=4, decay="cosine"))
        fall = rates[3:]  # half a cosine is its own mirror image
        assert fall == sorted(fall, reverse=True)
        mirrored = [CONFIG.lr - rate for rate in reversed(fall[1:])]
        assert fall[1:] == pytest.approx(mirrored)


def test_parts_of_a_batch_add_up():
    """Without dropout the gradients of parts add up to those of the batch."""
    gradients = []
    for part in (None, 3):
        model = build(dropout=0.0).double()
        data = TRAIN.to(torch.float64)
        fit(
            model,
            data,
            data[:2],
            Classification(),
            replace(CONFIG, epochs=1, batch_size=20),
            part=part,
        )
        found = [weight.grad.flatten() for weight in model.parameters()]
        gradients.append(torch.cat(found))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_statistics_are_those_of_the_training_set():
    model, _ = train(objective=Scripted([0.0] * 3))
    raw, _ = train(objective=Scripted([0.0] * 3), standardise=False)
    spread = TRAIN.networks.params["0.weight"].std()
    found, plain = (one.standardise.deviations[0] for one in (model, raw))
    assert float(found) == pytest.approx(float(spread), rel=0.01)
    assert found != plain == 1.0


class TestObjectives:
    def test_a_class_counts_if_it_is_named(self):
        class Knows(nn.Module):
            """Names the class of every network but the first."""

            def forward(self, batch):
                logits = 5.0 * nn.functional.one_hot(VALIDATION.targets, 2)
                logits[0] = -logits[0]
                return logits

        found = evaluate(Knows(), VALIDATION, Classification())
        assert found["accuracy"] == found["score"] == pytest.approx(5 / 6)

    def test_evaluation_switches_dropout_off_and_on_again(self):
        model = build(dropout=0.5).train()
        first = evaluate(model, VALIDATION, Classification())
        assert first == evaluate(model, VALIDATION, Classification(), part=6)
        assert model.training

    @pytest.mark.parametrize("shape", [(), (2,)])
    def test_real_numbers_are_learned(self, shape):
        weights = TRAIN.networks.params["0.weight"].mean((1, 2))
        wanted = weights if shape == () else torch.stack([weights, -weights], dim=1)
        data = NetworkSet(TRAIN.networks, wanted)
        config = MLPConfig(width=16, layers=1)
        torch.manual_seed(0)
        model = BaselineClassifier(config, GRAPH, num_classes=2 if shape else 1)
        fitted = fit(
            model, data, data, Regression(), replace(CONFIG, epochs=60, lr=1e-2)
        )
        scores = fitted.epochs[fitted.best_epoch - 1].validation
        assert scores["r2"] > 0.9

    @pytest.mark.parametrize("loss", ["bce", "mse"])
    def test_shares_are_learned(self, loss):
        weights = TRAIN.networks.params["0.weight"].mean((1, 2))
        data = NetworkSet(TRAIN.networks, weights.sigmoid())
        torch.manual_seed(0)
        model = BaselinePredictor(MLPConfig(width=16, layers=1), GRAPH)
        config = replace(CONFIG, epochs=60, lr=1e-2)
        fitted = fit(model, data, data, Shares(loss), config)
        assert fitted.epochs[fitted.best_epoch - 1].validation["r2"] > 0.8

    def test_shares_need_a_predictor(self):
        with pytest.raises(TypeError, match="Use Regression for a NetworkClassifier"):
            fit(build(), TRAIN, VALIDATION, Shares(), CONFIG)


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"lr": 0.0}, {"seconds": -1.0}, {"patience": 0}],
    ids=str,
)
def test_settings_must_make_sense(settings):
    with pytest.raises(ValueError, match="Choose a positive value"):
        FitConfig(**settings)


def test_a_bar_counts_the_steps(capsys):
    pytest.importorskip("tqdm")
    train(progress=True)
    assert "9/9" in capsys.readouterr().err
