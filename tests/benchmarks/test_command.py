import subprocess
import sys
from dataclasses import is_dataclass

import pytest
import torch

from benchmarks import catalogue
from benchmarks.catalogue import BENCHMARKS, Benchmark, load_benchmark, names_of
from benchmarks.command import benchmark, report
from benchmarks.runs import read_rows
from optimizees import task_loader


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_offers_what_its_verbs_need(name):
    module = load_benchmark(name, "report")
    assert module.ROWS.parts[:2] == ("benchmarks", "results")
    assert callable(module.report)
    if name in names_of("benchmark"):
        assert is_dataclass(module.CONFIG)
        assert callable(module.run)
        assert module.__doc__


def test_the_list_of_benchmarks_imports_none_of_them(capsys):
    code = (
        "import sys; from benchmarks.command import benchmark\n"
        "try: benchmark(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "loaded = {'torch', 'tyro', 'benchmarks.fashion'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    for name in names_of("benchmark"):
        assert f"    {name:18}  {BENCHMARKS[name].summary}" in lines
    assert not any(line.startswith("    reproduction ") for line in lines)


@pytest.mark.parametrize("verb", [benchmark, report])
def test_without_a_name_the_list_is_a_usage_error(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        verb([])
    assert stop.value.code == 2
    assert "fashion" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [benchmark, report])
def test_an_unknown_name_is_answered_with_the_list(verb):
    with pytest.raises(ValueError, match=f"Run `l2o {verb.__name__} --help`"):
        verb(["fasion"])


def test_a_page_about_other_rows_has_no_run_of_its_own():
    with pytest.raises(ValueError, match="Run that, then `l2o report reproduction`"):
        benchmark(["reproduction"])


def test_a_benchmark_from_outside_is_one_line_of_the_list(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine.py").write_text(
        '"""Count."""\n'
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "ROWS = Path('mine.jsonl')\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    number: int = 3\n"
        "CONFIG = Config(number=4)\n"
        "def run(config, announce):\n"
        "    announce(f'counted to {config.number}')\n"
        "def report(results):\n"
        "    return f'read {results}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = Benchmark(module="mine", summary="Count.")
    monkeypatch.setitem(catalogue.BENCHMARKS, "mine", mine)
    assert benchmark(["mine"]) == benchmark(["mine", "--number", "5"]) == 0
    assert report(["mine"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["counted to 4", "counted to 5", "read mine.jsonl"]


@pytest.fixture
def _few_images(monkeypatch, images):
    """Sixty random images in place of FashionMNIST."""
    monkeypatch.setattr(task_loader, "load_fashion_mnist", lambda split, source: images)


FEW = ("--seeds", "101", "--selection-seeds", "9001", "--data", "embedded")


def listed(rows):
    return [
        (row["optimizer"], row["lr"], row["seed"], row["held_out_split"])
        for row in rows
    ]


@pytest.mark.usefixtures("_few_images")
def test_fashion_runs_once_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "fashion.jsonl"
    arguments = [
        *("fashion", "--rules", rule_file, "--lrs.adam", "0.01", "0.02"),
        *("--bfloat16-rules", rule_file),
        *("--grouped-rules", rule_file, "--steps", "1", "--batch-size", "4"),
        *(*FEW, "--threads", "1", "--results", str(path)),
    ]
    assert benchmark(arguments) == 0
    assert "[8/8] fashion-cnn, teacher, seed 101: test acc" in capsys.readouterr().out
    rows = read_rows(path)
    assert listed(rows) == [
        ("adam", 0.01, 9001, "validation"),
        ("adam", 0.02, 9001, "validation"),
        ("adam", 0.01, 101, "test"),
        ("adam", 0.02, 101, "test"),
        *[(rule_file, None, 101, "test")] * 3,
        ("teacher", None, 101, "test"),
    ]
    assert [row["settings"] for row in rows[4:7]] == [
        {},
        {"state": "bfloat16"},
        {"whitening_rows": 8},
    ]
    assert rows[0]["train_split"] == "train"
    before = path.read_bytes()
    assert benchmark(arguments) == 0
    assert path.read_bytes() == before
    assert report(["fashion", "--results", str(path)]) == 0
    text = capsys.readouterr().out
    assert "*(chosen)*" in text
    assert "| teacher " in text
    assert ", bfloat16 state " in text
    assert ", whitened by 8 rows " in text
    assert str(tmp_path / "fashion.png") in text


@pytest.mark.usefixtures("_few_images")
def test_long_runs_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "long.jsonl"
    arguments = [
        *("long", "--rules", rule_file, "--steps", "5", "--batch-size", "4"),
        *(*FEW, "--results", str(path)),
    ]
    assert benchmark(arguments) == 0
    assert len(read_rows(path)) == 2
    assert report(["long", "--results", str(path)]) == 0
    assert "| test accuracy % at 1 " in capsys.readouterr().out


@pytest.mark.usefixtures("_few_images")
def test_transfer_tunes_opponents_tests_rules_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "transfer.jsonl"
    arguments = [
        *("transfer", "--tasks", "fashion-cnn", "--rules", rule_file),
        *("--opponents", "adam", "--lrs.adam", "0.01", "0.02", "--extensions", "0"),
        *(*FEW, "--steps", "1", "--batch-size", "4", "--results", str(path)),
    ]
    assert benchmark(arguments) == 0
    found = listed(read_rows(path))
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
    assert benchmark(arguments) == 0
    assert path.read_bytes() == before
    assert report(["transfer", "--results", str(path)]) == 0
    assert f"| Adam, lr {chosen:g} *(tuned)*" in capsys.readouterr().out


@pytest.mark.usefixtures("_few_images")
def test_held_out_runs_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "held-out.jsonl"
    arguments = [
        *("held-out", "--tasks", "fashion-autoencoder", "--rules", rule_file),
        *("--no-with-teacher", "--extensions", "0", "--lrs.adam", "0.001", "0.01"),
        *("--batch-size", "4"),
        *(*FEW, "--steps", "5", "--threads", "1", "--results", str(path)),
    ]
    assert benchmark(arguments) == 0
    rows = read_rows(path)
    assert [row["task"] for row in rows] == ["fashion-autoencoder"] * 4
    assert [score["step"] for score in rows[-1]["scores"]] == [1, 2, 3, 4, 5]
    assert report(["held-out", "--results", str(path)]) == 0
    text = capsys.readouterr().out
    assert "validation loss by learning rate" in text
    assert path.with_suffix(".png").is_file()


def test_held_out_needs_a_step_for_each_evaluation(capsys):
    with pytest.raises(SystemExit):
        benchmark(["held-out", "--steps", "4"])
    assert "Raise steps" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("row", ['{"seed": 1}', '{"rows": []}'])
def test_rows_of_something_else_are_refused(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(row + "\n")
    for name in BENCHMARKS:
        if name not in ("meta-train", "ablations"):  # they read folders first
            with pytest.raises(ValueError, match=f"l2o report {name} needs rows"):
                report([name, "--results", str(path)])


@pytest.mark.slow
def test_step_cost_runs_and_reports(tmp_path, capsys):
    path = tmp_path / "step-cost.jsonl"
    arguments = [
        *("step-cost", "--models", "mlp-10k", "--subjects", "adam-fused"),
        *("--threads", "1", "--repeats", "2", "--results", str(path)),
    ]
    assert benchmark(arguments) == 0
    assert report(["step-cost", "--results", str(path)]) == 0
    text = capsys.readouterr().out
    assert "| torch Adam, fused " in text
    assert "png" not in text


def test_report_needs_rows(tmp_path):
    path = tmp_path / "fashion.jsonl"
    with pytest.raises(FileNotFoundError, match="report needs rows"):
        report(["fashion", "--results", str(path)])
