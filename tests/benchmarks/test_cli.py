import subprocess
import sys

import pytest
import torch

from benchmarks import cli
from benchmarks.cli import main

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


def test_validate_measures_rules(rule_file, capsys):
    few = ("--seeds", "9001", "--steps", "2", "--batch-size", "4", "--data", "embedded")
    assert main(["validate", rule_file, rule_file, *few]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"{rule_file}: validation accuracy ")
    assert "(n = 1, 2 steps, FashionMNIST (embedded" in first
    assert main(["validate", "no-such-rule", *few]) == 1
    assert "Check the spelling" in capsys.readouterr().err


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
