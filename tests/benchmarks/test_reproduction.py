import json

import pytest
import yaml

from benchmarks.reproduction import learned_by, report
from benchmarks.runs import read_rows
from meta_train.log import write_json_lines


def scored(accuracy):
    return [{"step": 1000, "train_loss": 0.5, "loss": 0.6, "accuracy": accuracy}]


@pytest.fixture
def make_learned(make_row):
    """Build the rows of one rule on seeds 101 and 102."""

    def build(recipe, meta_seed, accuracy, chosen_on="validation", **values):
        sha = f"{recipe} {meta_seed} {chosen_on}"
        kind = recipe.partition("-")[2].replace("-", "_")
        kind = kind.removesuffix("_released").removesuffix("_whole")
        rule = {
            "sha256": sha,
            "kind": kind,
            "commit": "c",
            "recipe": recipe,
            "meta_seed": meta_seed,
            "chosen_on": chosen_on,
        }
        return [
            make_row(
                seed=101 + place,
                optimizer=f"runs/{sha}",
                lr=None,
                rule=rule,
                rule_sha256=sha,
                scores=scored(accuracy + 0.01 * place),
                **values,
            )
            for place in range(2)
        ]

    return build


@pytest.fixture
def results(tmp_path, make_row, make_learned):
    rows = [
        make_row(seed=1, held_out_split="validation", lr=lr, scores=scored(accuracy))
        for lr, accuracy in ((0.001, 0.7), (0.01, 0.82))
    ]
    rows += [
        make_row(lr=0.001, scores=scored(0.71)),
        make_row(lr=0.01, scores=scored(0.81)),
        *make_learned("paper-ng-gnn", 0, 0.84),
        *make_learned("paper-ng-gnn", 1, 0.80),
        *make_learned("paper-ng-gnn", 1, 0.82, chosen_on="test"),
        *make_learned("paper-ng-gnn-released", 0, 0.50),
        *make_learned("paper-ng-gnn-whole", 1, 0.83),
        *make_learned("ours-ff", 0, 0.88),
        *make_learned("ours-ff", 0, 0.60, task="cifar-cnn", diverged=True),
    ]
    path = tmp_path / "reproduction.jsonl"
    write_json_lines(path, rows)
    return path


def line(text, start):
    """Return the cells of the first table row with these first words."""
    found = [item for item in text.splitlines() if item.startswith(f"| {start} ")]
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_both_recipes_stand_beside_the_paper(results):
    text = report(results)
    graph = line(text, "NG-GNN")
    assert graph[1] == "85.91 ± 0.37"
    assert graph[2] == "82.50 ± 2.38 (2 meta-seeds, 4 runs)"
    assert graph[3] == ""
    assert graph[4:] == ["64.37 ± 0.34", "", ""]
    blind = line(text, "FF")
    assert blind[3] == "88.50 ± 0.71 (1 meta-seed, 2 runs)"
    assert blind[6] == "60.50 ± 0.71, 2 diverged (1 meta-seed, 2 runs)"
    assert line(text, "LSTM")[1:4] == ["85.69 ± 0.23", "", ""]
    assert results.with_suffix(".md").read_text() == text
    assert results.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_adam_is_there_tuned_and_untuned(results):
    text = report(results)
    assert line(text, "Adam, lr 0.001")[1:3] == ["", "71.00 (1 run)"]
    tuned = line(text, "Adam, *tuned*")
    assert tuned[1:3] == ["80.97 ± 0.66", "81.00 (1 run) at 0.01"]


def test_what_faults_and_choices_cost_has_tables(results):
    text = report(results)
    parts = {part.split("\n")[0]: part for part in text.split("## ")}
    seeds = line(parts["Meta-seeds"], "NG-GNN")
    assert seeds[2] == "0: 84.50 ± 0.71, 1: 80.50 ± 0.71"
    chosen = line(parts["Chosen on validation → chosen on test"], "NG-GNN")
    assert chosen[2] == "82.50 ± 2.38 → 83.50 ± 1.29"
    released = line(parts["Read-outs mended → as released"], "NG-GNN")
    whole = line(parts["A tenth of the budget → the whole"], "NG-GNN")
    assert whole[2] == "80.50 ± 0.71 → 83.50 ± 0.71"  # of the same meta-seed
    assert released[2] == "84.50 ± 0.71 → 50.50 ± 0.71"


def test_what_test_would_choose_is_known_only_where_it_was_measured(results):
    rows = [row for row in read_rows(results) if row["task"] == "fashion-cnn"]
    found = learned_by(rows, "paper-ng-gnn", "test")
    assert [group.rule["chosen_on"] for group in found] == ["validation", "test"]
    assert learned_by(rows, "ours-ff", "test") == []


def test_each_run_tells_what_it_kept_and_what_test_would(results):
    assert "Which rule of a run is kept" not in report(results)
    place = results.with_name("reproduction-runs")
    place.mkdir()
    accuracies = [(1, 0.8, 0.7), (2, 0.85, 0.81), (3, 0.84, 0.83)]
    log = [
        {
            "outer_step": step,
            "validation": {"accuracy": on_validation, "loss": step},
            "test": {"accuracy": on_test},
        }
        for step, on_validation, on_test in accuracies
    ]
    (place / "paper-ff-0.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
    values = {"validation": {"select": "accuracy"}}
    (place / "paper-ff-0.yaml").write_text(yaml.safe_dump(values))
    found = line(report(results), "paper-ff-0")
    assert found[1:] == ["80.0 to 85.0", "2", "81.0", "3", "83.0"]


def test_it_needs_rows(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `l2o benchmark transfer`"):
        report(tmp_path / "none.jsonl")
