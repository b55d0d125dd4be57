import hashlib
from pathlib import Path

import pytest
from torch import nn

import meta_train
from benchmarks.optimizers import OpponentSpec, RuleSettings, TeacherSpec, rule_spec
from l2o import NeuralGraphOpt, load_rule, save_rule, shipped_rules
from l2o.config import config_values
from l2o.rule.config import with_group_rows
from l2o.rule.rule import Rule
from meta_train.config import load_config

FOLDER = Path(meta_train.__file__).parent / "configs"


def test_a_baseline_is_known_by_all_that_decides_its_run():
    spec = OpponentSpec(name="adamw-cosine", lr=0.03)
    assert spec.identity() == {
        "optimizer": "adamw-cosine",
        "lr": 0.03,
        "settings": {"weight_decay": 0.01, "warmup": 0.05},
        "rule_sha256": None,
        "rule": None,
    }
    assert spec.label == "AdamW, cosine, lr 0.03"
    assert OpponentSpec(name="adam", lr=0.03).identity()["settings"] == {}


def test_a_rule_is_known_by_the_checksum_of_its_file(rule_file):
    spec = rule_spec(rule_file)
    assert isinstance(spec.build(nn.Linear(2, 2), 5), NeuralGraphOpt)
    digest = hashlib.sha256(Path(rule_file).read_bytes()).hexdigest()
    row = spec.identity()
    assert row["rule"] == {
        "sha256": digest,
        "kind": "ff",
        "commit": "0123456789ab",
        "recipe": None,
        "meta_seed": None,
        "chosen_on": None,
    }
    assert (row["optimizer"], row["rule_sha256"]) == (rule_file, digest)
    assert (row["lr"], row["settings"]) == (None, {})
    assert spec.label == rule_file
    assert (
        rule_spec(rule_file, RuleSettings(state="bfloat16")).label
        == f"{rule_file}, bfloat16 state"
    )
    grouped = rule_spec(rule_file, RuleSettings(whitening_rows=3))
    assert grouped.label == f"{rule_file}, whitened by 3 rows"
    rule = grouped.build(nn.Linear(2, 2), 5).rule
    assert rule.config == with_group_rows(load_rule(rule_file).config, 3)
    known = load_rule(rule_file).state_dict()
    assert all(weight.equal(known[name]) for name, weight in rule.state_dict().items())


def test_a_rule_without_provenance_has_an_unknown_commit(tmp_path):
    save_rule(Rule(), tmp_path / "rule.safetensors")
    assert rule_spec(str(tmp_path / "rule.safetensors")).commit == "unknown"


def test_shipped_rules_are_found_by_name():
    assert all(len(rule_spec(name).sha256) == 64 for name in shipped_rules())


def test_the_teacher_runs_as_a_rule():
    assert isinstance(TeacherSpec().build(nn.Linear(2, 2), 5), NeuralGraphOpt)
    assert TeacherSpec().identity()["optimizer"] == TeacherSpec().label == "teacher"


def test_a_rule_must_exist():
    with pytest.raises(FileNotFoundError, match="Check the spelling"):
        rule_spec("no-such-rule")


def test_a_meta_trained_rule_says_how_it_came_about(tmp_path):
    config = load_config(FOLDER / "paper" / "ff.yaml", ["seed=4"])
    origin = {"config": config_values(config), "chosen_on": "test"}
    path = tmp_path / "best-on-test.safetensors"
    save_rule(Rule(config.rule_config), path, provenance=origin)
    found = rule_spec(str(path))
    assert (found.recipe, found.meta_seed) == ("paper-ff", 4)
    assert found.chosen_on == "test"
