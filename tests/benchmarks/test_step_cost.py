import pytest

from benchmarks.report import report_step_cost
from benchmarks.step_cost import (
    StepCostConfig,
    Subject,
    run_step_cost,
    time_in_turns,
)
from meta_train.log import read_json_lines


def test_subjects_are_timed_in_turns():
    calls = []
    subjects = [Subject(name=n, call=lambda n=n: calls.append(n)) for n in "abc"]
    seconds = time_in_turns(subjects, repetitions=4)
    assert [len(seconds[name]) for name in "abc"] == [4, 4, 4]
    rounds = [calls[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(found) == ["a", "b", "c"] for found in rounds)
    assert len({tuple(found) for found in rounds}) > 1


def test_a_run_is_reported_beside_the_gradient(tmp_path):
    path = tmp_path / "step-cost.jsonl"
    config = StepCostConfig(
        presets=("paper-ff",),
        compile=False,
        repetitions=2,
        batch_size=4,
        results=path,
    )
    lines = []
    run_step_cost(config, lines.append)
    run_step_cost(config, lines.append)
    rows = {row["subject"]: row for row in read_json_lines(path)}
    assert list(rows) == [
        "forward + backward",
        "Adam step",
        "paper-ff step, eager",
        "product of two 1024 x 1024 matrices",
    ]
    assert rows["forward + backward"]["ratio"] == 1.0
    product = rows["product of two 1024 x 1024 matrices"]
    assert product["gflop"] == pytest.approx(2.147, abs=1e-3)
    assert product["gflop_per_s"] > 0
    assert rows["Adam step"]["config"]["presets"] == ["paper-ff"]
    assert "results" not in rows["Adam step"]["config"]
    text = report_step_cost(path)
    assert "| paper-ff step, eager " in text
    assert "227 ms" not in text
    assert path.with_suffix(".md").read_text() == text


def test_the_papers_rule_is_compared_with_the_released_code(tmp_path):
    path = tmp_path / "step-cost.jsonl"
    config = StepCostConfig(
        presets=("paper",), compile=False, repetitions=2, batch_size=4, results=path
    )
    run_step_cost(config, print)
    text = report_step_cost(path)
    assert "took 227 ms with one thread, on other hardware" in text
    assert "are no ratio of speeds" in text


@pytest.mark.compile
@pytest.mark.slow
def test_a_compiled_step_is_compiled_before_it_is_timed(tmp_path):
    path = tmp_path / "step-cost.jsonl"
    config = StepCostConfig(
        presets=("default-ff",), repetitions=3, batch_size=4, results=path
    )
    run_step_cost(config, print)
    rows = {row["subject"]: row for row in read_json_lines(path)}
    assert rows["default-ff step, compiled"]["median_ms"] < 1000


def test_presets_must_exist():
    with pytest.raises(ValueError, match="Check the spelling"):
        StepCostConfig(presets=("papper",))


def test_quartiles_need_two_repetitions():
    with pytest.raises(ValueError, match="Choose 30"):
        StepCostConfig(repetitions=1)
