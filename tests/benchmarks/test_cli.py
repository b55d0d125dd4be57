import subprocess
import sys

import pytest
import torch

from benchmarks import cli
from benchmarks.cli import main
from benchmarks.runs import read_rows

VERBS = (
    "demo",
    "meta-train",
    "benchmark",
    "report",
    "data",
    "graph",
    "rules",
    "validate",
)
EXTRAS = ("tyro", "pydantic", "yaml", "matplotlib", "tabulate")


def fashion_arguments(rule_file, results):
    return [
        *("benchmark", "fashion", "--rules", rule_file, "--adam-lrs", "0.01"),
        *("--narrow-rules", rule_file, "--sparing-rules", rule_file),
        *("--grouped-rules", rule_file),
        *("--seeds", "101", "--selection-seeds", "9001", "--steps", "1"),
        *("--batch-size", "4", "--data", "embedded", "--threads", "1"),
        *("--results", str(results)),
    ]


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"• {verb} " in text for verb in VERBS)


def test_an_unknown_verb_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["optimise"])
    assert stop.value.code == 2
    assert "l2o --help" in capsys.readouterr().err


def test_fashion_runs_once_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "fashion.jsonl"
    assert main(fashion_arguments(rule_file, path)) == 0
    assert (
        "[7/7] fashion-cnn, Adam, lr 0.01, seed 101: test accuracy"
        in capsys.readouterr().out
    )
    rows = read_rows(path)
    assert [(row["optimizer"], row["seed"], row["held_out_split"]) for row in rows] == [
        (rule_file, 101, "test"),
        (rule_file, 101, "test"),
        (rule_file, 101, "test"),
        (rule_file, 101, "test"),
        ("teacher", 101, "test"),
        ("adam", 9001, "validation"),
        ("adam", 101, "test"),
    ]
    assert rows[1]["settings"] == {"state": "bfloat16"}
    assert rows[2]["settings"] == {"structure_every": 10}
    assert rows[3]["settings"] == {"whitening_rows": 8}
    assert rows[5]["train_split"] == "train"
    before = path.read_bytes()
    assert main(fashion_arguments(rule_file, path)) == 0
    assert path.read_bytes() == before
    assert main(["report", "fashion", "--results", str(path)]) == 0
    text = capsys.readouterr().out
    assert "| Adam, lr 0.01 *(chosen)* *(best on test)*" in text
    assert "| teacher " in text
    assert ", bfloat16 state " in text
    assert ", whitened by 8 rows " in text
    assert ", network every 10 steps " in text
    assert str(tmp_path / "fashion.png") in text


def test_validate_measures_rules(rule_file, capsys):
    few = ("--seeds", "9001", "--steps", "2", "--batch-size", "4", "--data", "embedded")
    assert main(["validate", rule_file, rule_file, *few]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"{rule_file}: validation accuracy ")
    assert "(n = 1, 2 steps, FashionMNIST (embedded" in first
    assert main(["validate", "no-such-rule", *few]) == 1
    assert "Check the spelling" in capsys.readouterr().err


def test_long_runs_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "long.jsonl"
    arguments = [
        *("benchmark", "long", "--rules", rule_file, "--adam-lrs", "0.01"),
        *("--seeds", "101", "--evaluate-at", "1", "--steps", "2"),
        *("--batch-size", "4", "--data", "embedded", "--results", str(path)),
    ]
    assert main(arguments) == 0
    assert len(read_rows(path)) == 2
    assert main(["report", "long", "--results", str(path)]) == 0
    assert "| test accuracy % at 1 " in capsys.readouterr().out


def test_transfer_tunes_opponents_tests_rules_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "transfer.jsonl"
    arguments = [
        *("benchmark", "transfer", "--tasks", "fashion-cnn", "--rules", rule_file),
        *("--baselines", "adam", "--lrs.adam", "0.01", "0.02", "--extensions", "0"),
        *("--seeds", "101", "--selection-seeds", "9001", "--steps", "1"),
        *("--batch-size", "4", "--data", "embedded", "--results", str(path)),
    ]
    assert main(arguments) == 0
    found = [
        (row["optimizer"], row["lr"], row["seed"], row["held_out_split"])
        for row in read_rows(path)
    ]
    chosen = found[2][1]
    assert chosen in (0.01, 0.02)
    assert found == [
        ("adam", 0.01, 9001, "validation"),
        ("adam", 0.02, 9001, "validation"),
        ("adam", chosen, 101, "test"),
        ("adam", 0.001, 101, "test"),
        (rule_file, None, 101, "test"),
        ("teacher", None, 101, "test"),
    ]
    before = path.read_bytes()
    assert main(arguments) == 0
    assert path.read_bytes() == before
    assert main(["report", "transfer", "--results", str(path)]) == 0
    assert f"| Adam, lr {chosen:g} *(tuned)*" in capsys.readouterr().out


def test_held_out_runs_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "held-out.jsonl"
    arguments = [
        *("benchmark", "held-out", "--tasks", "fashion-autoencoder"),
        *("--rules", rule_file, "--no-with-teacher", "--extensions", "0"),
        *("--adam-lrs", "0.001", "0.01", "--seeds", "101", "--steps", "5"),
        *("--data", "embedded", "--threads", "1", "--results", str(path)),
    ]
    assert main(arguments) == 0
    rows = read_rows(path)
    assert [row["task"] for row in rows] == ["fashion-autoencoder"] * 4
    assert [score["step"] for score in rows[-1]["scores"]] == [1, 2, 3, 4, 5]
    assert main(["report", "held-out", "--results", str(path)]) == 0
    text = capsys.readouterr().out
    assert "validation loss by learning rate" in text
    assert path.with_suffix(".png").is_file()


def test_held_out_needs_a_step_for_each_evaluation(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "held-out", "--steps", "4"])
    assert "Leave it out for 1,000" in " ".join(capsys.readouterr().err.split())


def test_the_first_evaluation_of_long_comes_before_its_end(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "long", "--steps", "1000"])
    assert "Lower it" in capsys.readouterr().err


@pytest.mark.slow
def test_step_cost_runs_and_reports(tmp_path, capsys):
    path = tmp_path / "step-cost.jsonl"
    arguments = [
        *("benchmark", "step-cost", "--models", "mlp-10k", "--subjects", "adam-fused"),
        *("--threads", "1", "--repeats", "2", "--results", str(path)),
    ]
    assert main(arguments) == 0
    assert main(["report", "step-cost", "--results", str(path)]) == 0
    text = capsys.readouterr().out
    assert "| torch Adam, fused " in text
    assert "png" not in text


def test_report_needs_rows(tmp_path, capsys):
    path = tmp_path / "fashion.jsonl"
    assert main(["report", "fashion", "--results", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("l2o: report needs rows")
    assert error.count("\n") == 1


def test_meta_train_is_handed_on(tmp_path, capsys):
    assert main(["meta-train", str(tmp_path / "none.yaml")]) == 1
    assert capsys.readouterr().err.startswith("l2o meta-train: load_config needs")


def test_rules_shows_how_they_were_made(capsys, monkeypatch, rule_file):
    monkeypatch.setattr(cli, "shipped_rules", lambda: [rule_file])
    assert main(["rules"]) == 0
    text = capsys.readouterr().out
    assert f"{rule_file}: ff, " in text
    assert "commit: 0123456789ab" in text
    assert "license: MIT" in text


def test_data_is_located_and_verified(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["data", "locate", "cifar-10"]) == 1
    assert "l2o data download cifar-10" in capsys.readouterr().err
    assert main(["data", "verify", "cifar-10", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "test_batch.bin: missing" in said.out
    assert "got 6 of 6" in said.err


def test_data_is_downloaded_with_what_the_user_says(tmp_path, capsys, monkeypatch):
    asked = {}

    def download(name, dest, **settings):
        asked.update(settings, name=name, dest=dest)
        return dest

    monkeypatch.setattr(cli, "download", download)
    arguments = ["data", "download", "cifar-10", "--dest", str(tmp_path)]
    assert main([*arguments, "--base-url", "http://mirror"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)
    assert asked == {
        "name": "cifar-10",
        "dest": tmp_path,
        "base_url": "http://mirror",
        "progress": None,
    }


def test_progress_of_a_download_is_drawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = cli._show_progress()
    assert show is not None
    show("file", 1_000_000, None)
    show("file", 2_000_000, 2_000_000)
    assert capsys.readouterr().err == "\rfile: 1.0 MB\rfile: 2.0 of 2.0 MB\n"


def test_demo_draws_its_curves(tmp_path, capsys, small_optimizers):
    path = tmp_path / "demo.png"
    arguments = ["demo", "--seeds", "2", "--steps", "2", "--threads", "1"]
    assert main([*arguments, "--data", "embedded", "--out", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Training data: FashionMNIST (embedded subset")
    assert "n = 2 (seeds 101, 102), 2 steps of 128 images" in text
    assert "| learned " in text
    assert str(path) in text
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_demo_needs_a_seed(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", "0"])
    assert "Leave it out for two" in " ".join(capsys.readouterr().err.split())


def test_an_interrupt_ends_with_its_own_status(capsys, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert main(["demo"]) == 130
    assert "continue where they stopped" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["rules"]) == 1
    error = capsys.readouterr().err
    assert "tyro" in error
    assert "pip install 'l2o[train,benchmarks]'" in error


def test_a_fault_of_ours_is_not_mistaken_for_a_missing_extra(monkeypatch):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["rules"])


def test_the_core_install_can_import_the_command_line():
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in EXTRAS)
    code = f"import sys; {blocked}import benchmarks.cli"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
