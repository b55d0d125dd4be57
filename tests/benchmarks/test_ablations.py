import json

import pytest
import yaml

from benchmarks.ablations import changes, report
from meta_train.log import write_json_lines

BASE = {
    "name": "ablations-base",
    "seed": 0,
    "rule": {
        "net": {"kind": "ff", "width": 32},
        "features": {"kind": "log_sign"},
        "head": {"kind": "nominal"},
    },
    "unroll": [100, 3000],
    "tasks": [{"kind": "named", "image_size": 14}],
    "validation": {"every": 25, "select": "accuracy"},
}


def changed(**values):
    return {**BASE, "name": "other", "seed": 1, **values}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"unroll": [100, 100]}, ["unroll: [100, 100]"]),
        ({"tasks": [{"kind": "family"}]}, ["tasks"]),
        (
            {"rule": {**BASE["rule"], "net": {"kind": "ng_gnn", "layers": 2}}},
            ["rule.net: ng_gnn"],
        ),
        (
            {"rule": {**BASE["rule"], "net": {"kind": "ff", "width": 16}}},
            ["rule.net.width: 16"],
        ),
        ({"init": "ff"}, ["init: ff"]),
    ],
)
def test_what_differs_is_named(values, expected):
    assert changes(changed(**values), BASE) == expected


@pytest.fixture
def results(tmp_path, make_row):
    """Two meta-seeds of `base`, one of `short`, two networks each."""
    place = tmp_path / "ablations-runs"
    place.mkdir()
    rows = []
    for name, seed, accuracy in (
        ("short", 0, 0.6),
        ("ablations-base", 0, 0.8),
        ("ablations-base", 1, 0.9),
    ):
        stem = f"{name}-{seed}"
        config = {**BASE, "name": name, "seed": seed}
        if name == "short":
            # Of a later day: its settings that the others lack say what these mean.
            head = {"kind": "nominal", "scaled": "adam", "max_deviation": None}
            config["rule"] = {**BASE["rule"], "head": head}
            config |= {"unroll": [100, 100], "cuda_graphs": False}
        (place / f"{stem}.yaml").write_text(yaml.safe_dump(config))
        log = [
            {"outer_step": 1, "loss": 1.0, "inner_steps": 1500},
            {
                "outer_step": 1,
                "validation": {"accuracy": accuracy + 0.05, "loss": 1.0},
            },
        ]
        lines = "".join(json.dumps(record) + "\n" for record in log)
        (place / f"{stem}.jsonl").write_text(lines)
        rule = {
            "sha256": stem,
            "kind": "ff",
            "recipe": name,
            "meta_seed": seed,
            "chosen_on": "validation",
        }
        rows += [
            make_row(
                seed=101 + place,
                optimizer=f"runs/{stem}",
                lr=None,
                rule=rule,
                rule_sha256=stem,
                diverged=name == "short" and place == 1,
                scores=[
                    {
                        "step": 1000,
                        "train_loss": 0.5,
                        "loss": 0.6,
                        "accuracy": accuracy + 0.02 * place,
                    }
                ],
            )
            for place in range(2)
        ]
    path = tmp_path / "ablations.jsonl"
    write_json_lines(path, rows)
    return path


def test_each_change_has_a_line_beneath_the_base(results):
    text = report(results)
    lines = [
        line for line in text.splitlines() if line.startswith(("| ablations", "| sh"))
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    base, short = cells
    assert base[:5] == ["ablations-base", "", "1,500, 1,500", "2", "85.0, 95.0"]
    assert base[5:] == ["86.00 ± 5.89", "0.5000 ± 0.0000", "0", "4"]
    assert short[:2] == ["short", "unroll: [100, 100]"]
    assert short[5:] == ["61.00 ± 1.41", "0.5000 ± 0.0000", "1", "2"]
    assert results.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_without_the_base_there_is_nothing_to_compare(results):
    for file in results.with_name("ablations-runs").glob("ablations-base-*"):
        file.unlink()
    with pytest.raises(ValueError, match="called 'ablations-base'; got \\['short'\\]"):
        report(results)
