import pytest

from benchmarks import fashion as fashion_benchmark
from benchmarks import long as long_benchmark
from benchmarks.step_cost.report import report_step_cost
from meta_train.log import write_json_lines


def scored(accuracy, step=1000):
    return {"step": step, "train_loss": 0.5, "loss": 0.6, "accuracy": accuracy}


def cells(text, label):
    """Return the cells of the table row whose first cell is `label`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def learned(kind):
    rule = {"sha256": "abcdef0123456789", "kind": kind, "commit": "c"}
    return {"optimizer": kind, "lr": None, "rule": rule, "rule_sha256": rule["sha256"]}


@pytest.fixture
def fashion(tmp_path, make_row):
    path = tmp_path / "fashion.jsonl"
    rows = [
        make_row(seed=1, scores=[scored(0.86)], **learned("ng_gnn")),
        make_row(seed=2, scores=[scored(0.88)], **learned("ng_gnn")),
        make_row(lr=0.01, seed=1, scores=[scored(0.82)]),
        make_row(lr=0.02, seed=1, scores=[scored(0.84)]),
        make_row(lr=0.04, seed=1, scores=[scored(None)], diverged=True, curve=[None]),
    ]
    rows += [
        make_row(lr=lr, held_out_split="validation", scores=[scored(accuracy)])
        for lr, accuracy in ((0.01, 0.83), (0.02, 0.81), (0.04, 0.1))
    ]
    write_json_lines(path, rows)
    return path


def test_fashion_has_a_line_for_each_optimizer(fashion):
    text = fashion_benchmark.report(fashion)
    learned_cells = cells(text, "ng_gnn (abcdef01)")
    assert learned_cells[1:4] == ["2", "87.00 ± 1.41", "85.91 ± 0.37"]
    chosen = cells(text, "Adam, lr 0.01 *(chosen)*")
    assert chosen[1:5] == ["1", "82.00", "80.97 ± 0.66", "83.00"]
    best = cells(text, "Adam, lr 0.02 *(best on test)*")
    assert best[2:5] == ["84.00", "", "81.00"]
    lost = cells(text, "Adam, lr 0.04")
    assert (lost[2], lost[6]) == ("none", "1")
    assert "recalled, not verified" in text
    assert "commit 0123456789ab; torch 2.13; a processor, 1 CPU thread(s)" in text


def test_fashion_is_written_beside_its_rows(fashion):
    text = fashion_benchmark.report(fashion)
    assert fashion.with_suffix(".md").read_text() == text
    assert fashion.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_other_settings_get_a_table_without_the_papers_figures(tmp_path, make_row):
    path = tmp_path / "fashion.jsonl"
    write_json_lines(path, [make_row(), make_row(data="embedded", **learned("ff"))])
    text = fashion_benchmark.report(path)
    assert text.count("test accuracy %") == 2
    assert cells(text, "ff (abcdef01)")[3] == ""


def test_fashion_without_tests_yet_has_an_empty_table(tmp_path, make_row):
    path = tmp_path / "fashion.jsonl"
    write_json_lines(path, [make_row(held_out_split="validation")])
    assert "1 rows" in fashion_benchmark.report(path)


def test_long_shows_both_evaluations(tmp_path, make_row):
    path = tmp_path / "long.jsonl"
    scores = [scored(0.8), scored(0.9, step=5000)]
    write_json_lines(path, [make_row(steps=5000, evaluate_at=[1000], scores=scores)])
    text = long_benchmark.report(path)
    assert cells(text, "Adam, lr 0.01")[1:6] == ["1", "80.00", "90.00", *["0.5000"] * 2]
    assert "test accuracy % at 1,000" in text
    assert path.with_suffix(".png").is_file()


@pytest.mark.parametrize(
    ("report", "command"),
    [
        (fashion_benchmark.report, "l2o benchmark fashion"),
        (long_benchmark.report, "l2o benchmark long"),
        (report_step_cost, "l2o benchmark step-cost"),
    ],
)
def test_a_report_without_rows_names_the_command(tmp_path, report, command):
    with pytest.raises(FileNotFoundError, match=f"Run `{command}` first"):
        report(tmp_path / "rows.jsonl")
