from pathlib import Path

import pytest

from benchmarks.options_file import with_options_of_file
from l2o.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(
        "seeds: [1, 2]\nwith_teacher: false\nsteps: 5\nlrs: {adam: [0.1]}\n"
    )
    return str(path)


def test_options_take_the_place_of_the_file(file):
    found = with_options_of_file(["benchmark", "transfer", "--config", file])
    assert found[:2] == ["benchmark", "transfer"]
    assert found[2:5] == ["--seeds", "1", "2"]
    assert found[5:] == ["--no-with-teacher", "--steps", "5", "--lrs.adam", "0.1"]


@pytest.mark.parametrize("first", [True, False])
def test_the_command_line_has_the_last_word(file, first):
    given = ["--with-teacher", "--steps", "7"]
    rest = ["--config", file]
    found = with_options_of_file([*given, *rest] if first else [*rest, *given])
    assert found.count("--steps") == 1
    assert found[found.index("--steps") + 1] == "7"
    assert "--no-with-teacher" not in found


def test_an_option_with_its_value_behind_a_sign_has_it_too(file):
    found = with_options_of_file(["--steps=7", "--config", file])
    assert "--steps=7" in found
    assert "--steps" not in found


def test_without_a_file_nothing_changes():
    assert with_options_of_file(["a", "--b"]) == ["a", "--b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("- 1", "holds list"),
        ("a: [", "Correct the file"),
    ],
)
def test_bad_files_are_refused(tmp_path, capsys, text, message):
    path = tmp_path / "options.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["benchmark", "transfer", "--config", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_a_flag_without_a_file_is_refused(capsys):
    assert main(["benchmark", "transfer", "--config"]) == 1
    assert "needs the path of a YAML file" in capsys.readouterr().err


def test_unknown_options_are_refused(tmp_path, capsys):
    path = tmp_path / "options.yaml"
    path.write_text("stepz: 5")
    with pytest.raises(SystemExit):
        main(["benchmark", "transfer", "--config", str(path)])
    assert "stepz" in capsys.readouterr().err


def test_the_reproduction_names_the_rules_of_every_logged_run():
    found = with_options_of_file(
        ["--config", str(ROOT / "benchmarks/configs/reproduction.yaml")]
    )
    named = {Path(item) for item in found if item.endswith(".safetensors")}
    assert {path.name for path in named} == {
        "best.safetensors",
        "best-on-test.safetensors",
    }
    logs = (ROOT / "benchmarks/results/reproduction-runs").glob("*.jsonl")
    assert {path.parent.name for path in named} == {log.stem for log in logs}
