"""Each example runs as a user runs it, for a few steps, and what it prints is true."""

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"

# Steps that take seconds and show progress; the fixture of a package beyond `l2o`.
EXAMPLES = {
    "accelerate_loop": (20, "accelerate"),
    "cifar_resnet": (15, None),
    "custom_rule": (30, None),
    "fashion_cnn": (20, None),
    "fine_tuning": (25, None),
    "functional": (3, None),
    "higher_inner_loop": (3, "higher"),
    "lightning_module": (15, "lightning"),
    "meta_train_regression": (2, None),
    "meta_train_text": (2, None),
    "tiny_gpt": (15, None),
}


@pytest.fixture
def run_example(monkeypatch, capsys):
    """Run one in this process; return what it printed."""

    def run(name, steps):
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--steps", str(steps)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def falls(printed):
    """Return every pair of losses that was printed around an arrow."""
    found = re.findall(r"loss (\d+\.\d+) -> (\d+\.\d+)", printed)
    return [(float(first), float(last)) for first, last in found]


def test_the_list_is_whole():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"compare"}
    assert files == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 80


@pytest.mark.slow
# Of the packages that an example shows, and not of the library.
@pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before")
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_does_what_it_says(run_example, request, name):
    steps, package = EXAMPLES[name]
    if package is not None:
        request.getfixturevalue(package)  # or skip without it
    printed = run_example(name, steps)
    pairs = falls(printed)
    assert pairs, printed
    assert all(last < first for first, last in pairs), printed
    if "Adam" in printed:
        assert [line.split()[0] for line in printed.splitlines()[-2:]] == [
            "Adam",
            "NeuralGraphOpt",
        ]
    match name:
        case "accelerate_loop":
            assert f"{2 * steps} batches, {steps} steps, lr 0.00" in printed
        case "lightning_module":
            assert f"{2 * steps} batches, {2 * steps} steps" in printed
