import json
import math
import signal
from collections import Counter

import pytest
import torch

from l2o import load_rule, read_provenance, save_rule
from meta_train import inner_problem, loop
from meta_train.config import load_config
from meta_train.log import read_json_lines
from meta_train.loop import MetaTrainer
from meta_train.meta_optimizer import learning_rate

EVOLUTION = {"kind": "pes", "pairs": 2, "sigma": 0.02}

VARIANTS = {
    "ff": ("ff", {}),
    "ng-gnn": ("ng-gnn", {}),
    "pes": ("ff", {"estimator": EVOLUTION, "trained": ["net.entry.last.*"]}),
    "es": ("ff", {"estimator": {**EVOLUTION, "kind": "es"}, "max_offset": 0.5}),
    "tbptt": ("ff", {"estimator": {"kind": "tbptt", "window": 2}}),
    "average": ("ff", {"meta_optimizer": {"average": 0.5}, "curriculum": 2}),
}
"""Rules, estimators and settings that keep a state of their own between steps."""


SLOW = ("es", "average")


@pytest.fixture(
    params=[
        pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in VARIANTS
    ]
)
def config(request, tiny):
    rule, changes = VARIANTS[request.param]
    return tiny(rule, **changes)


def outcome(trainer):
    """Return all that a run leaves behind but the time it took."""
    log = read_json_lines(trainer.folder / "log.jsonl")
    for record in log:
        del record["seconds"]
    files = {}
    for name in ("best", "last"):
        rule = load_rule(trainer.folder / f"{name}.safetensors")
        files[name] = {key: item.tolist() for key, item in rule.state_dict().items()}
    return {
        "log": log,
        "files": files,
        "best": trainer.best,
        "inner_steps": trainer.inner_steps,
        "theta": {
            name: item.tolist() for name, item in trainer.rule.state_dict().items()
        },
        "runners": [
            (
                runner.generator.get_state().tolist(),
                runner.choice,
                runner.problem.seed,
                runner.problem.length,
                runner.problem.position,
            )
            for runner in trainer.runners.values()
        ],
    }


def run_whole(config, folder):
    trainer = MetaTrainer(config, folder)
    trainer.train()
    return trainer


class TestResume:
    def test_stopped_after_every_step_is_never_stopped(self, config, tmp_path):
        whole = run_whole(config, tmp_path / "whole")
        MetaTrainer(config, tmp_path / "parts").train(max_minutes=0)
        for step in range(2, config.outer_steps + 1):
            trainer = MetaTrainer(config, tmp_path / "parts", resume=True)
            trainer.train(max_minutes=0)
            assert trainer.outer_step == step
        assert outcome(trainer) == outcome(whole)

    @pytest.mark.parametrize(("until", "stop"), [(0, 0), (2, 2), (9, 3)])
    def test_it_stops_after_a_given_step(self, tiny, tmp_path, until, stop):
        whole = run_whole(tiny(), tmp_path / "whole")
        trainer = MetaTrainer(tiny(), tmp_path / "parts")
        trainer.train(until=until)
        assert trainer.outer_step == stop
        trainer = MetaTrainer(tiny(), tmp_path / "parts", resume=True)
        trainer.train()
        assert outcome(trainer) == outcome(whole)

    def test_a_finished_run_stays_as_it_is(self, tiny, tmp_path):
        config = tiny()
        whole = outcome(run_whole(config, tmp_path))
        trainer = MetaTrainer(config, tmp_path, resume=True)
        trainer.train()
        assert outcome(trainer) == whole

    def test_a_crash_loses_no_more_than_since_the_checkpoint(self, tiny, tmp_path):
        """The log of the lost steps goes too."""
        config = tiny()
        whole = run_whole(config, tmp_path / "whole")
        trainer = MetaTrainer(config, tmp_path / "parts")
        trainer.meta_step()
        trainer.save()
        trainer.meta_step()
        trainer.meta_step()
        trainer.close()
        trainer = MetaTrainer(config, tmp_path / "parts", resume=True)
        assert trainer.outer_step == 1
        trainer.train()
        assert outcome(trainer) == outcome(whole)

    @pytest.mark.parametrize(
        "fault", [KeyboardInterrupt(), RuntimeError("a fault")], ids=repr
    )
    def test_a_fault_inside_a_step(self, tiny, tmp_path, monkeypatch, fault):
        found = self.stop(tiny(), tmp_path, monkeypatch, "add_meta_gradient", 4, fault)
        assert found == 0

    def test_a_fault_between_two_steps(self, tiny, tmp_path, monkeypatch):
        fault = KeyboardInterrupt()
        found = self.stop(tiny(), tmp_path, monkeypatch, "add_meta_gradient", 3, fault)
        assert found == 0

    def test_a_fault_while_validating(self, tiny, tmp_path, monkeypatch):
        fault = KeyboardInterrupt()
        assert self.stop(tiny(), tmp_path, monkeypatch, "validate", 1, fault) == 0

    def test_a_fault_leaves_the_last_checkpoint(self, tiny, tmp_path, monkeypatch):
        config = tiny(checkpoint_minutes=1e-9)
        fault = RuntimeError("a fault")
        found = self.stop(config, tmp_path, monkeypatch, "add_meta_gradient", 6, fault)
        assert found == 2

    @pytest.mark.parametrize(
        ("number", "name", "call", "step"),
        [
            (signal.SIGINT, "add_meta_gradient", 1, 1),
            (signal.SIGTERM, "add_meta_gradient", 4, 2),
            (signal.SIGINT, "validate", 1, 2),
            (signal.SIGINT, "add_meta_gradient", 6, 3),
        ],
    )
    def test_a_signal_lets_the_step_end(
        self, tiny, tmp_path, monkeypatch, number, name, call, step
    ):
        found = self.stop(tiny(), tmp_path, monkeypatch, name, call, number)
        assert found == step

    def test_a_second_signal_does_not_wait(self, tiny, tmp_path, monkeypatch):
        config = tiny(checkpoint_minutes=1e-9)
        signals = (signal.SIGINT, signal.SIGINT)
        name = "add_meta_gradient"
        assert self.stop(config, tmp_path, monkeypatch, name, 4, *signals) == 1

    def stop(self, config, tmp_path, monkeypatch, name, call, *causes):
        """Stop a run at a call, resume it, compare; return the step of the stop."""
        whole = run_whole(config, tmp_path / "whole")
        room = loop if name == "validate" else inner_problem
        original, calls = getattr(room, name), Counter()

        def sometimes(*args, **kwargs):
            calls[name] += 1
            if calls[name] == call:
                for cause in causes:
                    if isinstance(cause, BaseException):
                        raise cause
                    signal.raise_signal(cause)
            return original(*args, **kwargs)

        monkeypatch.setattr(room, name, sometimes)
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            MetaTrainer(config, tmp_path / "parts").train()
        monkeypatch.undo()
        trainer = MetaTrainer(config, tmp_path / "parts", resume=True)
        step = trainer.outer_step
        trainer.train()
        assert outcome(trainer) == outcome(whole)
        return step

    def test_the_comparison_can_fail(self, tiny, tmp_path):
        first = run_whole(tiny(), tmp_path / "first")
        second = run_whole(tiny(seed=1), tmp_path / "second")
        assert outcome(first) != outcome(second)

    def test_the_same_seed_is_the_same_run(self, tiny, tmp_path):
        first = run_whole(tiny(), tmp_path / "first")
        second = run_whole(tiny(), tmp_path / "second")
        assert outcome(first) == outcome(second)

    def test_the_global_generator_is_left_alone(self, tiny, tmp_path):
        before = torch.get_rng_state()
        run_whole(tiny(), tmp_path)
        assert torch.equal(torch.get_rng_state(), before)


class TestFolder:
    def test_a_run_is_not_overwritten(self, tiny, tmp_path):
        run_whole(tiny(), tmp_path)
        with pytest.raises(FileExistsError, match="choose another --folder"):
            MetaTrainer(tiny(), tmp_path)

    def test_there_must_be_something_to_resume(self, tiny, tmp_path):
        with pytest.raises(FileNotFoundError, match="without --resume"):
            MetaTrainer(tiny(), tmp_path / "new", resume=True)
        assert not (tmp_path / "new").exists()

    def test_another_configuration_is_refused(self, tiny, tmp_path):
        run_whole(tiny(), tmp_path)
        with pytest.raises(ValueError, match=r"Pass its config\.yaml"):
            MetaTrainer(tiny(seed=1), tmp_path, resume=True)

    def test_it_holds_the_resolved_configuration(self, tiny, tmp_path):
        config = tiny()
        MetaTrainer(config, tmp_path)
        assert load_config(tmp_path / "config.yaml") == config

    def test_rules_say_how_they_came_about(self, tiny, tmp_path):
        run_whole(tiny(), tmp_path)
        found = read_provenance(tmp_path / "best.safetensors")
        assert found["config"]["name"] == "tiny"
        assert found["data"].startswith("FashionMNIST (embedded subset")
        assert found["outer_step"] in (2, 3)
        assert set(found["validation"]) == {"loss", "accuracy", "train_loss"}
        assert found["chosen_on"] == "validation"
        last = read_provenance(tmp_path / "last.safetensors")
        assert (last["outer_step"], last["num_skipped"]) == (3, 0)

    def test_the_best_rule_is_the_one_of_the_lowest_loss(self, tiny, tmp_path):
        trainer = run_whole(tiny(outer_steps=6), tmp_path)
        log = read_json_lines(tmp_path / "log.jsonl")
        losses = {
            record["outer_step"]: record["validation"]["loss"]
            for record in log
            if "validation" in record
        }
        assert list(losses) == [2, 4, 6]
        best = read_provenance(tmp_path / "best.safetensors")
        assert best["outer_step"] == min(losses, key=losses.get)
        assert trainer.best["validation"] == -min(losses.values())

    @pytest.mark.slow
    def test_the_best_rule_may_be_the_most_accurate(self, tiny, tmp_path):
        validation = {"every": 1, "steps": 3, "seeds": [1], "select": "accuracy"}
        trainer = run_whole(tiny(outer_steps=6, validation=validation), tmp_path)
        log = read_json_lines(tmp_path / "log.jsonl")
        accuracies = [r["validation"]["accuracy"] for r in log if "validation" in r]
        best = read_provenance(tmp_path / "best.safetensors")
        assert best["outer_step"] == 1 + accuracies.index(max(accuracies))
        assert trainer.best["validation"] == max(accuracies)

    @pytest.mark.slow
    def test_what_the_test_set_would_choose_is_kept_beside(self, tiny, tmp_path):
        validation = {"every": 1, "steps": 3, "seeds": [1]}
        run_whole(tiny(outer_steps=6, validation=validation), tmp_path / "without")
        validation["with_test"] = True
        run_whole(tiny(outer_steps=6, validation=validation), tmp_path / "with")
        log = read_json_lines(tmp_path / "with" / "log.jsonl")
        losses = [r["test"]["loss"] for r in log if "test" in r]
        assert len(losses) == 6
        chosen = read_provenance(tmp_path / "with" / "best-on-test.safetensors")
        assert chosen["outer_step"] == 1 + losses.index(min(losses))
        assert chosen["test"]["loss"] == min(losses)
        best = [
            load_rule(tmp_path / name / "best.safetensors").state_dict()
            for name in ("without", "with")
        ]
        assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
        assert not (tmp_path / "without" / "best-on-test.safetensors").exists()

    def test_the_last_step_is_validated_whatever_the_interval(self, tiny, tmp_path):
        validation = {"every": 100, "steps": 2, "seeds": [1]}
        run_whole(tiny(outer_steps=3, validation=validation), tmp_path)
        log = read_json_lines(tmp_path / "log.jsonl")
        assert [r["outer_step"] for r in log if "validation" in r] == [3]

    def test_a_run_may_start_from_a_rule_file(self, tiny, tmp_path, random_rule):
        config = tiny("ng-gnn")
        rule = random_rule(config.rule_config, dtype=torch.float32)
        save_rule(rule, tmp_path / "first.safetensors")
        config = tiny("ng-gnn", init=str(tmp_path / "first.safetensors"))
        trainer = MetaTrainer(config, tmp_path / "run")
        for name, weight in trainer.rule.state_dict().items():
            assert torch.equal(weight, rule.state_dict()[name])

    def test_the_rule_file_must_be_of_the_configured_kind(
        self, tiny, tmp_path, random_rule
    ):
        rule = random_rule(tiny("ff").rule_config, dtype=torch.float32)
        save_rule(rule, tmp_path / "first.safetensors")
        config = tiny("ng-gnn", init=str(tmp_path / "first.safetensors"))
        with pytest.raises(ValueError, match=r"init=.*first.*\. Set rule to what the"):
            MetaTrainer(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestSteps:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_step_that_is_not_finite_is_skipped_and_counted(
        self, tiny, tmp_path, monkeypatch, value
    ):
        original, calls = inner_problem.add_meta_gradient, Counter()

        def broken(config, run, *args):
            progress = original(config, run, *args)
            calls["all"] += 1
            if calls["all"] == 3:  # the first inner problem of the second step
                next(run.bound.rule.parameters()).grad.view(-1)[0] = value
            return progress

        monkeypatch.setattr(inner_problem, "add_meta_gradient", broken)
        trainer = MetaTrainer(tiny(), tmp_path)
        moved = []
        for _ in range(3):
            before = torch.nn.utils.parameters_to_vector(trainer.rule.parameters())
            trainer.meta_step()
            after = torch.nn.utils.parameters_to_vector(trainer.rule.parameters())
            assert after.isfinite().all()
            moved.append(not torch.equal(before, after))
        assert moved == [True, False, True]
        assert trainer.num_skipped == 1
        log = read_json_lines(tmp_path / "log.jsonl")
        steps = [record for record in log if "skipped" in record]
        assert [record["skipped"] for record in steps] == [False, True, False]
        totals = [r["skipped_total"] for r in log if "skipped_total" in r]
        assert set(totals) == {1}
        trainer.save()
        provenance = read_provenance(tmp_path / "last.safetensors")
        assert provenance["num_skipped"] == 1
        trainer.close()
        assert MetaTrainer(tiny(), tmp_path, resume=True).num_skipped == 1

    def test_a_run_that_diverges_is_replaced_and_counted(
        self, tiny, tmp_path, monkeypatch
    ):
        original = inner_problem.add_meta_gradient

        def broken(config, run, *args):
            progress = original(config, run, *args)
            run.loss = math.nan
            return progress

        trainer = MetaTrainer(tiny(unroll=[50, 50]), tmp_path)
        monkeypatch.setattr(inner_problem, "add_meta_gradient", broken)
        trainer.meta_step()
        assert trainer.num_diverged == 2
        seeds = {item.problem.seed for item in trainer.runners.values()}
        monkeypatch.undo()
        trainer.meta_step()
        assert trainer.num_diverged == 2
        assert not seeds & {item.problem.seed for item in trainer.runners.values()}

    def test_the_meta_gradient_is_clipped(self, tiny, tmp_path):
        meta_optimizer = {"clip_norm": 1e-3}
        trainer = MetaTrainer(tiny(meta_optimizer=meta_optimizer), tmp_path)
        trainer.meta_step()
        grads = [weight.grad for weight in trainer.rule.parameters()]
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        assert norm == pytest.approx(1e-3, rel=1e-3)
        (record,) = read_json_lines(tmp_path / "log.jsonl")
        assert record["grad_norm"] > 1e-3

    @pytest.mark.parametrize("kind", ["adam", "adamw"])
    def test_the_meta_optimizer_is_the_configured_one(self, tiny, tmp_path, kind):
        settings = {"kind": kind, "lr": 0.5, "betas": [0.1, 0.2], "weight_decay": 0.3}
        trainer = MetaTrainer(tiny(meta_optimizer=settings), tmp_path)
        expected = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        assert type(trainer.meta_optimizer) is expected
        (group,) = trainer.meta_optimizer.param_groups
        assert (group["lr"], group["betas"]) == (0.5, (0.1, 0.2))
        assert group["weight_decay"] == 0.3

    def test_one_step_runs_too(self, tiny, tmp_path):
        estimator = {"kind": "one_step", "replay": 0.5}
        trainer = run_whole(tiny(estimator=estimator), tmp_path)
        assert math.isfinite(trainer.best["validation"])


class TestLearningRate:
    def test_it_warms_up_and_falls_as_a_cosine(self, tiny):
        settings = {"lr": 1.0, "warmup": 4, "final_lr_share": 0.1}
        config = tiny(outer_steps=14, meta_optimizer=settings)
        rates = [learning_rate(config, step) for step in range(15)]
        assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
        assert rates[9] == pytest.approx(0.55)
        assert rates[14] == pytest.approx(0.1)
        assert rates[4:] == sorted(rates[4:], reverse=True)

    def test_there_may_be_no_warm_up(self, tiny):
        config = tiny(outer_steps=2, meta_optimizer={"lr": 1.0, "warmup": 0})
        rates = [learning_rate(config, step) for step in range(3)]
        assert rates == pytest.approx([1.0, 0.5, 0.0])

    def test_it_is_logged(self, tiny, tmp_path):
        config = tiny(meta_optimizer={"warmup": 2, "lr": 0.1})
        run_whole(config, tmp_path)
        log = read_json_lines(tmp_path / "log.jsonl")
        rates = [record["lr"] for record in log if "lr" in record]
        assert rates == [learning_rate(config, step) for step in range(3)]


def test_cuda_graphs_need_a_gpu(tiny, tmp_path):
    with pytest.raises(ValueError, match="needs a CUDA device; got device 'cpu'"):
        MetaTrainer(tiny(device="cpu", cuda_graphs=True), tmp_path)


@pytest.mark.compile
def test_compiled_is_close_to_eager(tiny, tmp_path):
    settings = {"outer_steps": 2, "tasks": [{"name": "fashion-mlp", "image_size": 7}]}
    eager = run_whole(tiny(**settings), tmp_path / "eager")
    compiled = run_whole(tiny(**settings, compile=True), tmp_path / "compiled")
    for first, second in zip(
        eager.rule.parameters(), compiled.rule.parameters(), strict=True
    ):
        torch.testing.assert_close(second, first, rtol=0, atol=1e-5)


def test_every_line_of_the_log_is_json(tiny, tmp_path):
    run_whole(tiny(), tmp_path)
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["outer_step"] >= 1
