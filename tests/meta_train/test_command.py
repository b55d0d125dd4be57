import runpy
import sys

import pytest
import torch

from l2o import PRESETS, Rule, save_rule
from l2o.cli import main
from meta_train import loop
from meta_train.config import load_config, save_config


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """Write a tiny run and go to its folder."""
    monkeypatch.chdir(tmp_path)
    save_config(tiny(outer_steps=2), tmp_path / "run.yaml")
    return tmp_path / "run.yaml"


def test_a_run_goes_to_a_folder_of_its_name(run):
    assert main(["meta-train", str(run)]) == 0
    home = run.parent / "runs" / "tiny"
    assert {path.name for path in home.iterdir()} == {
        "config.yaml",
        "log.jsonl",
        "checkpoint.pt",
        "best.safetensors",
        "last.safetensors",
        "lock",
    }
    assert load_config(home / "config.yaml") == load_config(run)


def test_it_stops_and_resumes(run, capsys):
    folder = run.parent / "here"
    arguments = ["meta-train", str(run), "--folder", str(folder)]
    assert main([*arguments, "--max-minutes", "0"]) == 0
    assert main(arguments) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--until", "1"]) == 0
    assert '"outer_step": 2' not in (folder / "log.jsonl").read_text()
    assert main([*arguments, "--resume"]) == 0
    assert '"outer_step": 2' in (folder / "log.jsonl").read_text()


def test_settings_may_be_changed(run, capsys):
    home = run.parent / "here"
    changes = ["--set", "seed=3", "meta_optimizer.lr=0.5", "name=other"]
    assert main(["meta-train", str(run), "--folder", str(home), *changes]) == 0
    config = load_config(home / "config.yaml")
    assert (config.seed, config.meta_optimizer.lr) == (3, 0.5)
    assert config.outer_steps == load_config(run).outer_steps
    assert main(["meta-train", str(run), "--set", "sead=3"]) == 1
    assert "sead" in capsys.readouterr().err


def test_threads_are_set(run, monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    assert main(["meta-train", str(run), "-t", "2", "--max-minutes", "0"]) == 0
    assert main(["meta-train", str(run), "--resume"]) == 0
    assert set_to == [2]


def test_faults_of_the_user_are_one_line(run, capsys):
    assert main(["meta-train", "no.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("l2o: load_config needs a YAML file; got no.yaml")
    assert error.count("\n") == 1
    run.write_text("name: a\nouter_stepz: 3")
    assert main(["meta-train", str(run)]) == 1
    assert "outer_stepz" in capsys.readouterr().err


def test_tensorboard_is_an_option(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["meta-train", str(run), "--tensorboard"]) == 1
    assert "leave the flag out" in capsys.readouterr().err
    assert not (run.parent / "runs" / "tiny" / "checkpoint.pt").exists()


def test_an_interrupt_says_how_to_go_on(run, monkeypatch, capsys):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.MetaTrainer, "train", interrupt)
    assert main(["meta-train", str(run)]) == 130
    assert "--resume" in capsys.readouterr().err


def test_the_package_runs_as_a_module(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["meta_train", str(run), "--max-minutes", "0"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("meta_train", run_name="__main__")
    assert end.value.code == 0


def test_validate_measures_rules(tmp_path, capsys):
    name = str(tmp_path / "small.safetensors")
    save_rule(Rule(PRESETS["default-ff"]), name)
    few = ("--seeds", "9001", "--steps", "2", "--batch-size", "4", "--data", "embedded")
    assert main(["validate", name, name, *few]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"{name}: validation accuracy ")
    assert "(n = 1, 2 steps, FashionMNIST (embedded" in first
    told = ("--average", "--horizon")
    assert main(["validate", name, *few, *told]) == 0
    other = capsys.readouterr().out
    assert "averaged weights, length told" in other
    assert other.split(" loss ")[1] != first.split(" loss ")[1]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ([], "Pass a name that `l2o rules` lists"),
        (["ff", "--steps", "0"], "Raise --steps"),
        (["ff", "--threads", "0"], "Raise --threads"),
        (["ff", "--batch-size", "0"], "Raise --batch-size"),
        (["no-such-rule"], "Check the spelling"),
    ],
)
def test_validate_needs_rules_and_steps(capsys, words, advice):
    assert main(["validate", *words, "--data", "embedded"]) == 1
    said = capsys.readouterr().err
    assert advice in said
    assert said.count("\n") == 1
