"""Rule files that are damaged, foreign, hostile or from another version."""

import inspect
import json
import os
import resource
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from l2o import (
    PRESETS,
    load_rule,
    read_provenance,
    rule_metadata,
    save_rule,
    shipped_rules,
)
from l2o.rule import checkpoint
from l2o.rule.build import build_rule
from l2o.rule.neuron_config import NeuronRuleConfig


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


def rewrite(path, theta=None, **metadata):
    """Write a rule file again with other weights or metadata, its checksum right."""
    theta = load_file(path) if theta is None else theta
    metadata = {**metadata_of(path), **metadata}
    metadata["sha256"] = checkpoint.content_hash(metadata, theta)
    save_file(theta, path, metadata)
    return path


def with_config(path, change):
    """Write the file again with its configuration changed."""
    values = json.loads(metadata_of(path)["config"])
    return rewrite(path, config=json.dumps(change(values) or values))


def without_hash(path):
    """Write the file as the first format had it."""
    metadata = metadata_of(path)
    del metadata["sha256"]
    save_file(load_file(path), path, {**metadata, "format": "l2o-rule-1"})
    return path


def test_rewriting_alone_changes_nothing(path):
    """The control of every test that rewrites."""
    assert load_rule(rewrite(path)).num_weights() > 0
    assert load_rule(with_config(path, lambda values: None)).num_weights() > 0


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
        theta = load_file(path)
        if change == "missing":
            del theta["net.entry.last.bias"]
        else:
            theta["net.entry.lost.bias"] = torch.zeros(2)
        rewrite(path, theta)
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
        rewrite(path, config="{")
        with pytest.raises(ValueError, match="cannot understand the configuration"):
            load_rule(path)

    @pytest.mark.parametrize("config", ["[]", "7", "null", '"net"', "[" * 100_000])
    def test_a_configuration_of_another_form(self, path, config):
        with pytest.raises(ValueError, match="cannot understand the configuration"):
            load_rule(rewrite(path, config=config))

    @pytest.mark.parametrize("part", ["net", "features", "head"])
    @pytest.mark.parametrize("value", [[], 7, None, "ff", {"kind": ["ff"]}])
    def test_a_part_of_another_form(self, path, part, value):
        def replace(values):
            values[part] = value

        with pytest.raises(ValueError, match="cannot understand the configuration"):
            load_rule(with_config(path, replace))

    def test_a_key_that_is_there_twice(self, path):
        config = metadata_of(path)["config"].replace("{", '{"net": {}, ', 1)
        with pytest.raises(ValueError, match="names a key twice"):
            load_rule(rewrite(path, config=config))

    @pytest.mark.parametrize("provenance", ["[]", "{", "7", "[" * 100_000])
    def test_a_provenance_that_is_no_object(self, path, provenance):
        with pytest.raises(ValueError, match=r"its provenance.*copy or download"):
            read_provenance(rewrite(path, provenance=provenance))


class TestValues:
    """Values are checked as strictly as keys."""

    @pytest.mark.parametrize(
        ("part", "key", "value"),
        [
            ("net", "activation", "gelu"),
            ("net", "init", "zeros"),
            ("net", "width", 32.5),
            ("net", "width", "32"),
            ("net", "layers", True),
            ("head", "base", "sgd"),
            ("head", "scaled", "both"),
            ("head", "unit", "two"),
            ("head", "step_size", float("nan")),
            ("head", "step_size", float("inf")),
            ("head", "step_size", "0.01"),
            ("head", "max_deviation", -1.0),
            ("features", "time_scales", [0.0]),
            ("features", "time_scales", [float("nan")]),
            ("features", "time_scales", 7),
            ("features", "time_scales", ["10"]),
        ],
    )
    def test_a_value_that_no_version_knows(self, path, part, key, value):
        def change(values):
            values[part][key] = value

        with pytest.raises(ValueError, match=f"cannot understand.*{key}"):
            load_rule(with_config(path, change))

    @pytest.mark.parametrize("readout", ["mean", 1, None])
    def test_a_readout_that_no_version_knows(self, random_rule, tmp_path, readout):
        path = tmp_path / "graph.safetensors"
        save_rule(random_rule(PRESETS["default"], dtype=torch.float32), path)

        def change(values):
            values["net"]["readout"] = readout

        with pytest.raises(ValueError, match=r"cannot understand.*readout"):
            load_rule(with_config(path, change))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("map_direction", "adamw"),
            ("unit", "two"),
            ("whitening_steps", 10**9),
            ("momentum_decays", [1.0]),
            ("time_scales", [0.0]),
            ("signal_floor", float("nan")),
        ],
    )
    def test_values_of_the_neuron_rule(self, tmp_path, key, value):
        path = tmp_path / "neuron.safetensors"
        save_rule(build_rule(NeuronRuleConfig()), path)
        load_rule(path)
        with pytest.raises(ValueError, match=f"cannot understand.*{key}"):
            load_rule(with_config(path, lambda values: {**values, key: value}))

    @pytest.mark.parametrize("rows", [0, -1, 2.5, "many", None])
    def test_rows_are_a_number(self, path, rows):
        def change(values):
            values["whitening_rows"] = rows

        with pytest.raises(ValueError, match="cannot understand"):
            load_rule(with_config(path, change))


class TestFormats:
    def test_a_file_of_the_first_format_loads(self, path, rule):
        found = load_rule(without_hash(path))
        assert torch.equal(found.net.entry.last.bias, rule.net.entry.last.bias)
        assert read_provenance(path) == {"seed": 3, "license": "MIT"}

    @pytest.mark.parametrize("format", ["l2o-rule-3", "l2o-rule-", "", "pt", "\x1b[2J"])
    @pytest.mark.parametrize("read", [load_rule, read_provenance])
    def test_another_format_is_refused(self, path, format, read):
        rewrite(path, format=format)
        with pytest.raises(ValueError, match=r"l2o-rule-2; got .*Install the") as found:
            read(path)
        assert str(found.value).isprintable()

    def test_a_file_without_a_format_is_refused(self, path):
        metadata = metadata_of(path)
        del metadata["format"]
        save_file(load_file(path), path, metadata)
        with pytest.raises(ValueError, match="needs a file that save_rule wrote"):
            load_rule(path)

    def test_the_second_format_needs_its_checksum(self, path):
        metadata = metadata_of(path)
        del metadata["sha256"]
        save_file(load_file(path), path, metadata)
        with pytest.raises(ValueError, match="its checksum is missing"):
            load_rule(path)


class TestChecksum:
    def test_every_flipped_bit_is_found(self, path):
        whole = path.read_bytes()
        generator = torch.Generator().manual_seed(0)
        places = torch.randint(8 * len(whole), (100,), generator=generator).tolist()
        for place in [*places, 8 * 8, 8 * len(whole) - 1]:
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=r"rule\.safetensors"):
                load_rule(path)
        path.write_bytes(whole)
        load_rule(path)

    @pytest.mark.parametrize("key", ["provenance", "license"])
    def test_what_is_said_of_the_rule_is_covered(self, path, key):
        theta, metadata = load_file(path), metadata_of(path)
        save_file(theta, path, {**metadata, key: metadata[key].replace("3", "4") + " "})
        with pytest.raises(ValueError, match="bits have changed"):
            read_provenance(path)

    def test_a_shipped_file_without_one_is_known_by_its_bytes(
        self, path, tmp_path, monkeypatch
    ):
        whole = checkpoint.rule_path("ff").read_bytes()
        copy = tmp_path / "ff.safetensors"
        for module in (checkpoint, rule_metadata):
            monkeypatch.setattr(module, "shipped_files", lambda: {"ff": copy})
        copy.write_bytes(whole)
        assert load_rule("ff").num_weights() > 0
        copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match="bits have changed"):
            load_rule("ff")

    def test_each_shipped_file_has_one_or_is_known(self):
        for name in shipped_rules():
            known = "sha256" in metadata_of(checkpoint.rule_path(name))
            assert known != (name in checkpoint._SHIPPED_SHA256)


class TestSizes:
    """What the configuration asks for is compared with the file before it is built."""

    @pytest.mark.parametrize(
        ("preset", "key", "value"),
        [
            ("default-ff", "layers", 10**9),
            ("default-ff", "width", 10**18),
            ("default", "layers", 10**9),
            ("default", "width", 10**12),
            ("default", "kernel", 10**6),
            ("paper-ng-t", "heads", 10**9),
            ("paper-nfn", "depth", 10**9),
            ("paper-nfn", "kernel", 10**5),
            ("paper-nfn", "kernel", 600),
            ("neuron", "layers", 10**9),
            ("neuron", "width", 10**12),
            ("neuron", "message_width", 10**12),
        ],
    )
    def test_a_size_that_is_not_in_the_file(
        self, random_rule, tmp_path, preset, key, value
    ):
        path = tmp_path / "rule.safetensors"
        if preset == "neuron":
            save_rule(build_rule(NeuronRuleConfig()), path)
        else:
            save_rule(random_rule(PRESETS[preset], dtype=torch.float32), path)
        load_rule(path)

        def grow(values):
            values["net"][key] = value

        with_config(path, grow)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        with pytest.raises(
            ValueError, match=r"another configuration|heads must divide"
        ):
            load_rule(path)
        assert time.perf_counter() - started < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

    def test_a_header_that_claims_too_much(self, path):
        content = path.read_bytes()
        path.write_bytes((2**40).to_bytes(8, "little") + content[8:])
        with pytest.raises(ValueError, match=r"claims 1,099,511,627,776 bytes"):
            load_rule(path)


class TestTheta:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_weights_are_finite(self, path, bad):
        theta = load_file(path)
        theta["net.entry.last.bias"][1] = bad
        with pytest.raises(
            ValueError, match=r"got NaN or infinity in 'net\.entry\.last"
        ):
            load_rule(rewrite(path, theta))

    @pytest.mark.parametrize(
        "dtype",
        [torch.int32, torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn],
    )
    @pytest.mark.parametrize("share", ["all", "one"])
    def test_odd_types_are_refused(self, path, dtype, share):
        theta = load_file(path)
        names = theta if share == "all" else ["net.entry.last.bias"]
        theta |= {name: theta[name].to(dtype) for name in names}
        with pytest.raises(ValueError, match=r"weights of one type.*rule\.float\(\)"):
            load_rule(rewrite(path, theta))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_floating_point_types_are_kept(self, rule, path, dtype):
        save_rule(rule.to(dtype), path)
        assert {weight.dtype for weight in load_rule(path).parameters()} == {dtype}

    def test_a_file_without_tensors(self, path):
        path.write_bytes(save({}, metadata_of(path)))
        with pytest.raises(ValueError, match="more than the file's 0 tensors"):
            load_rule(path)


class TestNames:
    @pytest.mark.parametrize("name", [None, 3, 0.5, b"ff", ["ff"], object()])
    @pytest.mark.parametrize("read", [load_rule, read_provenance])
    def test_what_is_no_name(self, read, name):
        with pytest.raises(TypeError, match=r"needs a name or a path; got .*'ng-gnn'"):
            inspect.unwrap(read)(name)  # without the tests' check of types

    @pytest.mark.parametrize(
        "name", ["", "a\0b", "x" * 5000, "x/" * 3000, "\udc80", "\x1b[31mred", "ff\n"]
    )
    def test_what_no_file_can_be_called(self, name):
        with pytest.raises(FileNotFoundError, match="Check the spelling") as found:
            load_rule(name)
        assert str(found.value).isprintable()
        assert len(str(found.value)) < 600

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, path):
        path.chmod(0)
        with pytest.raises(PermissionError):
            load_rule(path)
