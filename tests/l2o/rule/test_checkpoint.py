import inspect

import pytest
import torch

from l2o import PRESETS, load_rule, read_provenance, save_rule, shipped_rules
from l2o.rule import checkpoint


@pytest.fixture
def rule(random_rule):
    return random_rule(PRESETS["default-ff"], dtype=torch.float32)


@pytest.fixture
def path(rule, tmp_path):
    """A whole rule file."""
    save_rule(rule, tmp_path / "rule.safetensors", provenance={"seed": 3})
    return tmp_path / "rule.safetensors"


def assert_same_theta(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert weight.dtype == second[name].dtype
        assert torch.equal(weight, second[name])


def load_after(rule, path):
    """Return a copy of the rule, by way of a file."""
    save_rule(rule, path)
    return load_rule(path)


class TestRoundTrip:
    @pytest.mark.parametrize("name", PRESETS)
    def test_weights_and_configuration_come_back(self, name, random_rule, tmp_path):
        rule = random_rule(PRESETS[name], dtype=torch.float32)
        save_rule(rule, tmp_path / "rule.safetensors")
        found = load_rule(tmp_path / "rule.safetensors")
        assert found.config == rule.config
        assert_same_theta(found, rule)

    def test_a_path_may_be_a_string(self, path, rule):
        assert_same_theta(load_rule(str(path)), rule)

    def test_folders_are_made(self, rule, tmp_path):
        save_rule(rule, tmp_path / "deep" / "down" / "rule.safetensors")
        assert_same_theta(load_rule(tmp_path / "deep/down/rule.safetensors"), rule)

    def test_provenance_comes_back_with_the_licence(self, path):
        assert read_provenance(path) == {"seed": 3, "license": "MIT"}

    def test_provenance_may_be_missing(self, rule, tmp_path):
        save_rule(rule, tmp_path / "rule.safetensors")
        assert read_provenance(tmp_path / "rule.safetensors") == {"license": "MIT"}

    def test_loading_draws_from_no_one_elses_generator(self, path):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            expected = torch.get_rng_state()
            load_rule(path)
            assert torch.equal(torch.get_rng_state(), expected)

    def test_a_licence_in_the_provenance_is_kept(self, rule, tmp_path):
        path = tmp_path / "rule.safetensors"
        save_rule(rule, path, provenance={"seed": 3, "license": "Apache-2.0"})
        assert read_provenance(path) == {"seed": 3, "license": "Apache-2.0"}
        save_rule(rule, path, provenance={"license": "MIT"}, license="BSD-3-Clause")
        assert read_provenance(path) == {"license": "BSD-3-Clause"}

    @pytest.mark.parametrize("license", [7, "MIT\nnext: line", "\x1b[31m", ["MIT"]])
    def test_a_licence_is_one_line(self, rule, tmp_path, license):
        with pytest.raises(ValueError, match=r"one line of text.*example Apache-2\.0"):
            save_rule(rule, tmp_path / "rule", provenance={"license": license})

    def test_a_provenance_is_json(self, rule, tmp_path):
        with pytest.raises(TypeError, match=r"JSON values.*Convert it to"):
            save_rule(rule, tmp_path / "rule", provenance={"when": {1, 2}})

    def test_other_classes_have_no_file(self, tmp_path):
        with pytest.raises(TypeError, match=r"needs a Rule; got Linear.*state_dict"):
            inspect.unwrap(save_rule)(torch.nn.Linear(2, 2), tmp_path / "rule")

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_rule_that_diverged_is_not_saved(self, rule, tmp_path, bad):
        rule = load_after(rule, tmp_path / "whole")
        with torch.no_grad():
            next(rule.parameters()).view(-1)[0] = bad
        with pytest.raises(ValueError, match=r"save_rule needs finite.*before the run"):
            save_rule(rule, tmp_path / "rule")
        assert not (tmp_path / "rule").exists()

    def test_shipped_rules_are_read_once_and_copied(self, monkeypatch):
        first = load_rule("ff")
        opened = []
        monkeypatch.setattr(checkpoint, "opened", opened.append)  # a read would fail
        second = load_rule("ff")
        assert_same_theta(first, second)
        assert first.config == second.config
        with torch.no_grad():
            next(first.parameters()).zero_()
        assert any(weight.any() for weight in next(second.parameters()))
        assert_same_theta(second, load_rule("ff"))
        assert opened == []

    def test_a_shipped_file_that_changed_is_read_again(self, path, rule, monkeypatch):
        monkeypatch.setattr(checkpoint, "shipped_folder", lambda: path.parent)
        assert_same_theta(load_rule(path), rule)
        with torch.no_grad():
            next(rule.parameters()).zero_()
        save_rule(rule, path)
        assert_same_theta(load_rule(path), rule)

    def test_shipped_rules_are_whole_and_say_how_they_came_about(self):
        for name in shipped_rules():
            provenance = read_provenance(name)
            assert provenance["license"] == "MIT"
            assert provenance["commit"]
            assert load_rule(name).num_weights() > 0
