import pytest

from benchmarks import held_out, transfer
from benchmarks.contest_report import steps_to
from meta_train.log import write_json_lines


def scored(accuracy, train_loss=0.5):
    return [{"step": 1000, "train_loss": train_loss, "loss": 0.6, "accuracy": accuracy}]


RULE = {"sha256": "abcdef0123456789", "kind": "ng_gnn", "commit": "c"}
LEARNED = {"optimizer": "ng-gnn", "lr": None, "rule": RULE, "rule_sha256": "abcdef"}
FALLING = [2.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]


@pytest.fixture
def results(tmp_path, make_row):
    rows = [
        make_row(seed=seed, held_out_split="validation", lr=lr, scores=scored(accuracy))
        for lr, accuracy in ((0.04, 0.7), (0.01, 0.82), (0.02, 0.81))
        for seed in (1, 2)
    ]
    rows += [
        make_row(seed=1, lr=0.01, scores=scored(0.80)),
        make_row(seed=2, lr=0.01, scores=scored(0.82)),
        make_row(seed=1, lr=0.001, scores=scored(0.75)),
        make_row(seed=1, curve=FALLING, scores=scored(0.88), **LEARNED),
        make_row(seed=2, scores=scored(0.86), **LEARNED),
        make_row(task="cifar-cnn", scores=scored(0.6), **LEARNED),
    ]
    path = tmp_path / "transfer.jsonl"
    write_json_lines(path, rows)
    return path


def line(text, start, index=0):
    """Return the cells of a table row by its first words."""
    found = [item for item in text.splitlines() if item.startswith(f"| {start} ")]
    return [cell.strip() for cell in found[index].strip("|").split("|")]


def test_every_optimizer_has_a_line_with_the_papers_figure(results):
    text = transfer.report(results)
    rule = line(text, "ng-gnn (abcdef01)")
    assert rule[1:4] == ["2", "87.00 ± 1.41", "85.91 ± 0.37"]
    assert rule[6:] == ["70 (1 of 2)", "0"]
    tuned = line(text, "Adam, lr 0.01 *(tuned)*")
    assert tuned[1:4] == ["2", "81.00 ± 1.41", "80.97 ± 0.66"]
    assert tuned[6] == "never"
    assert line(text, "Adam, lr 0.001")[3] == ""
    assert line(text, "ng-gnn (abcdef01)", index=1)[2:4] == ["60.00", "64.37 ± 0.34"]
    assert text.index("ng-gnn (abcdef01)") < text.index("Adam, lr 0.01 *(tuned)*")
    assert results.with_suffix(".md").read_text() == text
    assert results.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_rules_are_compared_with_the_best_tuned_opponent_by_seed(results):
    text = transfer.report(results)
    heading = "Differences from Adam, lr 0.01, the best tuned opponent, seed by seed:"
    after = text[text.index(heading) :].splitlines()
    mean = "accuracy 6.00 ± 2.83 points, test loss 0.0000 ± 0.0000 (n = 2)"
    assert after[2] == f"* ng-gnn (abcdef01): {mean}"
    assert text.count(heading) == 1  # the other task has no opponent


def test_the_choice_of_learning_rates_is_shown_in_order(results):
    text = transfer.report(results)
    grid = line(text, "Adam")
    assert grid == ["Adam", "2", "**0.01: 82.00**, 0.02: 81.00, 0.04: 70.00"]


def test_a_rate_at_which_all_diverged_says_so(tmp_path, make_row):
    nothing = {"step": 1000, "train_loss": None, "loss": None, "accuracy": None}
    row = make_row(held_out_split="validation", lr=0.8, scores=[nothing])
    good = make_row(held_out_split="validation", lr=0.1, scores=scored(0.8))
    write_json_lines(tmp_path / "rows.jsonl", [row, good])
    text = transfer.report(tmp_path / "rows.jsonl")
    assert "**0.1: 80.00**, 0.8: diverged" in text


def test_without_tests_there_is_the_choice_alone(tmp_path, make_row):
    write_json_lines(tmp_path / "rows.jsonl", [make_row(held_out_split="validation")])
    text = transfer.report(tmp_path / "rows.jsonl")
    assert "paper %" not in text
    assert "**0.01: 80.00**" in text


def test_a_loss_is_reached_by_the_mean_of_fifty_steps(make_row):
    row = make_row(curve=FALLING)
    assert steps_to(row, 0.5) == 70
    assert steps_to(row, 0.7) == 60
    assert steps_to(row, 0.4) is None
    assert steps_to(make_row(curve=[0.1] * 4 + [None]), 0.5) is None


def test_without_classes_the_lowest_loss_comes_first(tmp_path, make_row):
    def scores(*losses):
        return [
            {"step": 5 * place, "train_loss": loss, "loss": loss, "accuracy": None}
            for place, loss in enumerate(losses, start=1)
        ]

    rows = [
        make_row(held_out_split="validation", lr=lr, scores=scores(loss))
        for lr, loss in ((0.1, 0.5), (0.2, 0.3))
    ]
    rows += [
        make_row(lr=0.2, scores=scores(0.5, 0.2)),
        make_row(scores=scores(0.4, 0.1), **LEARNED),
        make_row(seed=2, scores=scores(0.4, None), diverged=True, **LEARNED),
    ]
    path = tmp_path / "held-out.jsonl"
    write_json_lines(path, [row | {"task": "fashion-autoencoder"} for row in rows])
    text = held_out.report(path)
    assert "accuracy %" not in text
    assert "0.1: 0.5000, **0.2: 0.3000**" in text
    assert line(text, "ng-gnn (abcdef01)")[1:3] == ["2", "0.1000"]
    assert line(text, "ng-gnn (abcdef01)")[-1] == "1"
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
