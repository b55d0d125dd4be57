import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from l2o import PRESETS, load_rule, read_provenance, save_rule, shipped_rules
from l2o.rule.checkpoint import write_whole


@pytest.fixture
def rule(random_rule):
    return random_rule(PRESETS["default-ff"], dtype=torch.float32)


@pytest.fixture
def path(rule, tmp_path):
    """A whole rule file."""
    save_rule(rule, tmp_path / "rule.safetensors", provenance={"seed": 3})
    return tmp_path / "rule.safetensors"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def with_config(path, change):
    """Write the file again with its configuration changed."""
    metadata = metadata_of(path)
    values = json.loads(metadata["config"])
    metadata["config"] = json.dumps(change(values) or values)
    save_file(load_file(path), path, metadata)
    return path


def assert_same_theta(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert weight.dtype == second[name].dtype
        assert torch.equal(weight, second[name])


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

    def test_everyone_may_read_the_file(self, path):
        assert path.stat().st_mode & 0o777 == 0o644

    def test_shipped_rules_are_whole_and_say_how_they_came_about(self):
        for name in shipped_rules():
            provenance = read_provenance(name)
            assert provenance["license"] == "MIT"
            assert provenance["commit"]
            assert load_rule(name).num_weights() > 0


class TestDamage:
    @pytest.mark.parametrize("missing", ["ng-gnnn", "no/such/file.safetensors", "."])
    @pytest.mark.parametrize("read", [load_rule, read_provenance])
    def test_what_is_not_there(self, read, missing):
        with pytest.raises(FileNotFoundError, match="Check the spelling, or write"):
            read(missing)

    @pytest.mark.parametrize("size", [0, 4, 100, -1])
    @pytest.mark.parametrize("read", [load_rule, read_provenance])
    def test_a_truncated_file(self, path, read, size):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match="copy or download it again"):
            read(path)

    def test_a_file_of_another_kind(self, path):
        path.write_text("<html>not found</html>" * 100)
        with pytest.raises(ValueError, match="copy or download it again"):
            load_rule(path)

    def test_tensors_that_are_no_rule(self, path):
        save_file({"weight": torch.zeros(2)}, path)
        with pytest.raises(ValueError, match=r"holds \[\].*with save_rule"):
            load_rule(path)

    def test_weights_of_another_configuration(self, path):
        def widen(values):
            values["net"]["width"] = 64

        with pytest.raises(ValueError, match=r"belongs to another configuration"):
            load_rule(with_config(path, widen))

    @pytest.mark.parametrize("change", ["missing", "extra"])
    def test_a_weight_too_few_or_too_many(self, path, change):
        theta, metadata = load_file(path), metadata_of(path)
        if change == "missing":
            del theta["net.entry.last.bias"]
        else:
            theta["net.entry.lost.bias"] = torch.zeros(2)
        save_file(theta, path, metadata)
        with pytest.raises(ValueError, match=r"1 tensors that do not.*net\.entry\.l"):
            load_rule(path)

    def test_an_unknown_kind(self, path):
        def rename(values):
            values["head"]["kind"] = "pony"

        with pytest.raises(ValueError, match=r"rule\.safetensors: .*got 'pony'"):
            load_rule(with_config(path, rename))

    def test_an_unknown_key(self, path):
        def add(values):
            values["net"]["widht"] = 1

        with pytest.raises(ValueError, match=r"\['widht'\].*version of l2o"):
            load_rule(with_config(path, add))

    def test_a_missing_part(self, path):
        with pytest.raises(ValueError, match=r"needs \['head'\]"):
            load_rule(with_config(path, lambda values: values.pop("head") and None))

    def test_a_configuration_out_of_range(self, path):
        def shrink(values):
            values["net"]["width"] = -1

        with pytest.raises(ValueError, match="Choose a positive value"):
            load_rule(with_config(path, shrink))

    def test_a_configuration_that_is_no_json(self, path):
        save_file(load_file(path), path, {**metadata_of(path), "config": "{"})
        with pytest.raises(ValueError, match="cannot understand the configuration"):
            load_rule(path)


class TestInterruptedWrites:
    @pytest.fixture(params=["fsync", "fdopen", "chmod", "replace"])
    def moment(self, request):
        """When the write fails."""
        return request.param

    @pytest.fixture(
        params=[OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
        ids=["full disk", "interrupt"],
    )
    def fault(self, request):
        return request.param

    def break_at(self, monkeypatch, moment, fault):
        def fail(*_args, **_kwargs):
            raise fault

        owner = os if moment in ("fsync", "fdopen") else Path
        monkeypatch.setattr(owner, moment, fail)

    def test_the_previous_file_survives(
        self, path, random_rule, monkeypatch, moment, fault
    ):
        before = path.read_bytes()
        other = random_rule(PRESETS["paper-ff"], dtype=torch.float32)
        self.break_at(monkeypatch, moment, fault)
        with pytest.raises(type(fault)):
            save_rule(other, path)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]

    def test_a_new_file_is_not_begun(self, tmp_path, monkeypatch, moment, fault):
        self.break_at(monkeypatch, moment, fault)
        with pytest.raises(type(fault)):
            write_whole(tmp_path / "new", b"content")
        monkeypatch.undo()
        assert os.listdir(tmp_path) == []

    def test_a_write_that_is_cut_short(self, path, monkeypatch):
        """The disk fills after half of the bytes."""
        before = path.read_bytes()
        open_file = os.fdopen

        class Half:
            def __init__(self, handle, mode):
                self.file = open_file(handle, mode)

            def __enter__(self):
                self.file.__enter__()
                return self

            def __exit__(self, *error):
                return self.file.__exit__(*error)

            def write(self, content):
                self.file.write(content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fdopen", Half)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"content" * 100)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]

    def test_without_a_fault_the_new_file_is_whole(self, path):
        write_whole(path, b"content")
        assert path.read_bytes() == b"content"
        assert os.listdir(path.parent) == [path.name]
