import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.contenders import adam, learned
from l2o import NeuralGraphOpt, save_rule, shipped_rules
from l2o.optim.rule import Rule


def test_adam_is_that_of_torch_at_its_learning_rate():
    contender = adam(0.03)
    optimizer = contender.build(nn.Linear(2, 2))
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 0.03
    assert (contender.label, contender.rule) == ("Adam, lr 0.03", None)


def test_a_rule_is_known_by_the_checksum_of_its_file(rule_file):
    contender = learned(rule_file)
    assert isinstance(contender.build(nn.Linear(2, 2)), NeuralGraphOpt)
    digest = hashlib.sha256(Path(rule_file).read_bytes()).hexdigest()
    assert contender.rule == {"sha256": digest, "kind": "ff", "commit": "0123456789ab"}
    assert contender.label == rule_file


def test_a_rule_without_provenance_has_an_unknown_commit(tmp_path):
    save_rule(Rule(), tmp_path / "rule.safetensors")
    contender = learned(str(tmp_path / "rule.safetensors"))
    assert contender.rule is not None
    assert contender.rule["commit"] == "unknown"


def test_shipped_rules_are_found_by_name():
    for name in shipped_rules():
        rule = learned(name).rule
        assert rule is not None
        assert len(rule["sha256"]) == 64


@pytest.mark.parametrize("lr", [0.0, -1.0, float("inf"), float("nan")])
def test_adam_needs_a_learning_rate(lr):
    with pytest.raises(ValueError, match=r"Try 0\.01"):
        adam(lr)


def test_a_rule_must_exist():
    with pytest.raises(FileNotFoundError, match="Check the spelling"):
        learned("no-such-rule")
