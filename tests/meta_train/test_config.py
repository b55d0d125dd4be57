import math
from pathlib import Path

import pytest
import yaml

import meta_train
from l2o import PRESETS
from l2o.nets import FeedForwardConfig, NGGNNConfig
from meta_train.config import (
    MetaOptimizerConfig,
    MetaTrainConfig,
    ValidationConfig,
    config_values,
    load_config,
    parse_config,
    save_config,
)
from meta_train.estimator_config import (
    EvolutionConfig,
    FirstOrderConfig,
    OneStepConfig,
    TBPTTConfig,
)
from meta_train.task_config import FamilyConfig, TaskConfig
from optimizees import Family

SHIPPED = sorted(
    path
    for path in Path(meta_train.__file__).parent.glob("configs/**/*.yaml")
    if path.parent.name != "search"
)

POSITIVE = r"above zero; got .*\. Choose a positive value\."
SHARE = r"at most 1; got .*\. Choose a share"
NOT_NEGATIVE = r"not be negative; got .*\. Choose a positive value, or 0"


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


class TestFiles:
    @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
    def test_every_shipped_run_loads(self, path):
        config = load_config(path)
        folder = path.parent.name
        prefix = "" if folder == "configs" else f"{folder}-"
        assert config.name == prefix + path.stem
        assert config.outer_steps > 0

    @pytest.mark.parametrize(
        "change", ["seed", "=1", "tasks.x=1", "a.b.", "seed=[", ""]
    )
    def test_a_change_that_is_none_is_named(self, change):
        with pytest.raises(ValueError, match=r"load_config needs") as caught:
            load_config(SHIPPED[0], [change])
        assert repr(change) in str(caught.value)

    def test_a_change_may_add_a_part(self, tmp_path):
        path = write(tmp_path / "run.yaml", {"name": "a"})
        changes = ["estimator.kind=one_step", "estimator.replay=0.25"]
        assert load_config(path, changes).estimator == OneStepConfig(replay=0.25)

    def test_some_are_shipped(self):
        assert {"ng-gnn-families", "ff-imitation"} <= {path.stem for path in SHIPPED}

    @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
    def test_saving_and_loading_is_identity(self, path, tmp_path):
        config = load_config(path)
        save_config(config, tmp_path / "resolved.yaml")
        assert load_config(tmp_path / "resolved.yaml") == config

    @pytest.mark.parametrize("name", PRESETS)
    @pytest.mark.parametrize(
        "estimator",
        [
            OneStepConfig(replay=0.5),
            FirstOrderConfig(objective="mean"),
            TBPTTConfig(second_order=False),
            EvolutionConfig(kind="pes", sigma=0.1),
        ],
    )
    def test_so_it_is_with_every_rule_and_estimator(self, name, estimator, tmp_path):
        for rule in (name, PRESETS[name]):
            config = MetaTrainConfig(
                name="a",
                rule=rule,
                estimator=estimator,
                tasks=(
                    TaskConfig(weight=0.1),
                    TaskConfig(name="fashion-mlp"),
                    FamilyConfig(kind="family", family=Family(norms=("batch",))),
                ),
                meta_optimizer=MetaOptimizerConfig(clip_norm=None, lr=1e-5),
                validation=ValidationConfig(seeds=(1,)),
            )
            save_config(config, tmp_path / "resolved.yaml")
            found = load_config(tmp_path / "resolved.yaml")
            assert found == config
            assert found.rule_config == PRESETS[name]

    def test_values_are_plain(self):
        values = config_values(MetaTrainConfig(name="a", rule=PRESETS["default"]))
        assert yaml.safe_load(yaml.safe_dump(values)) == values
        assert values["unroll"] == [100, 1000]

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.yaml.*meta_train/configs"):
            load_config(tmp_path / "none.yaml")

    @pytest.mark.parametrize("text", ["name: [1", "a: b: c", "\tname: a", "{"])
    def test_broken_yaml_is_named(self, tmp_path, text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"run\.yaml: .*Correct the file"):
            load_config(path)

    @pytest.mark.parametrize("text", ["", "- name", "3", "name: null"])
    def test_yaml_that_is_no_run_is_named(self, tmp_path, text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"run\.yaml is no configuration"):
            load_config(path)


class TestStrictness:
    @pytest.mark.parametrize(
        "values",
        [
            {"outer_step": 3},
            {"tasks": [{"outer_step": 3}]},
            {"estimator": {"kind": "one_step", "outer_step": 3}},
            {"estimator": {"kind": "first_order", "outer_step": 3}},
            {"estimator": {"kind": "imitation", "outer_step": 3}},
            {"meta_optimizer": {"outer_step": 3}},
            {"validation": {"outer_step": 3}},
            {"validation": {"tasks": [{"outer_step": 3}]}},
            {"tasks": [{"kind": "family", "outer_step": 3}]},
            {"tasks": [{"kind": "family", "family": {"outer_step": 3}}]},
            {"estimator": {"kind": "tbptt", "outer_step": 3}},
            {"estimator": {"kind": "nres", "outer_step": 3}},
            {"rule": {"outer_step": {}}},
            {"rule": {"net": {"kind": "ff", "outer_step": 3}}},
            {"rule": {"net": {"kind": "ng_gnn", "outer_step": 3}}},
            {"rule": {"net": {"kind": "ng_gnn", "head": {"outer_step": 3}}}},
            {"rule": {"features": {"kind": "log_sign", "outer_step": 3}}},
            {"rule": {"features": {"kind": "scale_free", "outer_step": 3}}},
            {"rule": {"head": {"kind": "paper", "outer_step": 3}}},
            {"rule": {"head": {"kind": "nominal", "outer_step": 3}}},
        ],
        ids=str,
    )
    def test_a_misspelt_key_is_named(self, values, tmp_path):
        path = write(tmp_path / "run.yaml", {"name": "a", **values})
        with pytest.raises(ValueError, match=r"outer_step: Unexpected keyword"):
            load_config(path)

    def test_the_keys_at_the_top_are_listed(self):
        with pytest.raises(ValueError, match=r"Keys at the top are: name, rule, seed"):
            parse_config({"name": "a", "nmae": "b"}, origin="here")

    def test_a_run_needs_a_name(self):
        with pytest.raises(ValueError, match="name: Field required"):
            parse_config({}, origin="here")


class TestValues:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"unroll": [1000, 100]}, r"unroll=\(1000, 100\)\. Swap or raise"),
            ({"unroll": [0, 100]}, r"unroll=\(0, 100\)\. Swap or raise"),
            ({"rule": "defualt"}, r"rule='defualt'"),
            ({"steps_per_outer": 30}, r"got 30 for a window of 20\. Change one"),
            (
                {"outer_steps": 0},
                r"outer_steps must be above zero; got outer_steps=0\.",
            ),
            ({"num_tasks": 0}, r"num_tasks must be above zero; got num_tasks=0\."),
            (
                {"steps_per_outer": 0},
                r"steps_per_outer must be above zero; got steps_per_outer=0\.",
            ),
            ({"seed": "pony"}, "seed: Input should be a valid integer"),
            (
                {"tasks": [{"image_size": 0}]},
                r"TaskConfig image_size must be above zero",
            ),
            (
                {"tasks": [{"name": "pony"}]},
                r"tasks\.0\.named\.name: Input should be 'fashion-cnn'",
            ),
            ({"tasks": [{"kind": "pony"}]}, r"tasks\.0: Input tag 'pony'.*'factory'"),
            ({"estimator": {"kind": "pony"}}, r"kind: Input should be 'one_step'"),
            ({"rule": {"net": {"kind": "ff", "width": -1}}}, "width=-1"),
            ({"unroll": [1, 2, 3]}, r"unroll"),
            ({"data": "pony"}, r"data: Input should be"),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_a_wrong_value_is_named(self, values, message):
        with pytest.raises(ValueError, match=message):
            parse_config({"name": "a", **values}, origin="here")

    @pytest.mark.parametrize(
        ("values", "key", "message"),
        [
            *(
                ({"estimator": {"kind": kind, "replay": value}}, "replay", SHARE)
                for kind in ("one_step", "first_order", "imitation")
                for value in (0.0, -0.5, 1.5)
            ),
            *(
                ({"estimator": {"kind": "first_order", key: value}}, key, SHARE)
                for key in ("tail", "discount")
                for value in (0.0, 1.5)
            ),
            ({"estimator": {"kind": "first_order", "window": 0}}, "window", POSITIVE),
            ({"estimator": {"kind": "first_order", "window": -5}}, "window", POSITIVE),
            *(
                ({"estimator": {"kind": "imitation", key: 0}}, key, POSITIVE)
                for key in ("warmup", "decay_steps", "decay_power")
            ),
            *(
                ({"estimator": {"kind": "imitation", key: -0.5}}, key, NOT_NEGATIVE)
                for key in ("matrix_rate", "vector_rate")
            ),
            *(
                ({"tasks": [{"weight": value}]}, "weight", "Choose a number")
                for value in (math.nan, math.inf)
            ),
            ({"tasks": []}, "tasks", r"at least one inner .* tasks=\(\)\. Add one"),
            *(
                ({"tasks": [{"weight": value}]}, "weight", POSITIVE)
                for value in (0.0, -1.0)
            ),
            ({"tasks": [{"batch_size": 0}]}, "batch_size", POSITIVE),
            ({"validation": {"every": 0}}, "every", POSITIVE),
            ({"validation": {"steps": 0}}, "steps", POSITIVE),
            ({"validation": {"seeds": []}}, "seeds", r"at least one .*\(\)\. Add one"),
            ({"validation": {"tasks": [{"batch_size": 0}]}}, "batch_size", POSITIVE),
            ({"validation": {"tasks": []}}, "tasks", r"at least one .*\(\)\. Add one"),
            ({"estimator": {"kind": "tbptt", "window": 0}}, "window", POSITIVE),
            *(
                ({"estimator": {"kind": kind, key: 0}}, key, POSITIVE)
                for kind in ("es", "pes", "nres")
                for key in ("pairs", "sigma", "max_loss")
            ),
            ({"estimator": {"kind": "es", "tail": 0.0}}, "tail", SHARE),
            (
                {"estimator": {"kind": "es", "final_share": -1}},
                "final_share",
                NOT_NEGATIVE,
            ),
            (
                {"estimator": {"kind": "es", "final_share": 1.5}},
                "final_share",
                r"at most 1; got final_share=1\.5\. Choose a share",
            ),
            ({"curriculum": -1}, "curriculum", NOT_NEGATIVE),
            *(
                (
                    {"max_offset": value},
                    "max_offset",
                    r"lie in \[0, 1\); got .*\. Choose a share",
                )
                for value in (-0.1, 1.0)
            ),
            *(
                (
                    {"meta_optimizer": {"average": value}},
                    "average",
                    r"lie in \[0, 1\); got .*\. Choose a share",
                )
                for value in (-0.1, 1.0)
            ),
            *(
                ({"tasks": [{"kind": "family", key: 0}]}, key, POSITIVE)
                for key in ("members", "weight")
            ),
            ({"meta_optimizer": {"lr": -1.0}}, "lr", POSITIVE),
            ({"meta_optimizer": {"lr": 0.0}}, "lr", POSITIVE),
            ({"meta_optimizer": {"warmup": -1}}, "warmup", NOT_NEGATIVE),
            ({"meta_optimizer": {"weight_decay": -1}}, "weight_decay", NOT_NEGATIVE),
            ({"meta_optimizer": {"clip_norm": -1.0}}, "clip_norm", POSITIVE),
            ({"meta_optimizer": {"clip_norm": 0.0}}, "clip_norm", POSITIVE),
            *(
                (
                    {"meta_optimizer": {"final_lr_share": value}},
                    "final_lr_share",
                    r"from 0 to 1; got final_lr_share=.*\. Choose 0 to decay",
                )
                for value in (-0.1, 1.1)
            ),
            ({"checkpoint_minutes": -1.0}, "checkpoint_minutes", POSITIVE),
            ({"checkpoint_minutes": 0.0}, "checkpoint_minutes", POSITIVE),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_a_value_out_of_range_is_named(self, values, key, message):
        match = rf"here is no configuration.*Config {key} must .*{message}"
        with pytest.raises(ValueError, match=match):
            parse_config({"name": "a", **values}, origin="here")

    @pytest.mark.parametrize(
        "values",
        [
            {"estimator": {"kind": "one_step", "replay": 1.0}},
            {"estimator": {"kind": "first_order", "window": 1, "discount": 1.0}},
            {"estimator": {"kind": "imitation", "warmup": 1, "matrix_rate": 0.0}},
            {"meta_optimizer": {"warmup": 0, "weight_decay": 0.0, "clip_norm": None}},
            {"meta_optimizer": {"final_lr_share": 0.0}},
            {"meta_optimizer": {"final_lr_share": 1.0}},
            {"validation": {"every": 1, "steps": 1, "seeds": [0]}},
        ],
        ids=str,
    )
    def test_the_ends_of_a_range_are_allowed(self, values):
        assert parse_config({"name": "a", **values}, origin="here").name == "a"

    def test_a_rule_written_out_is_read(self):
        config = parse_config(
            {
                "name": "a",
                "rule": {
                    "net": {"kind": "ng_gnn", "head": {"width": 4}},
                    "features": {"kind": "log_sign"},
                    "head": {"kind": "paper"},
                },
            },
            origin="here",
        )
        assert config.rule_config.net == NGGNNConfig(head=FeedForwardConfig(width=4))
        assert config.rule_config.head.kind == "paper"

    def test_the_defaults_are_the_documented_ones(self):
        config = MetaTrainConfig(name="a")
        assert config.rule_config == PRESETS["default"]
        assert config.estimator == FirstOrderConfig(window=20, replay=0.25)
        assert config.tasks == (TaskConfig(name="fashion-cnn"),)


def test_a_value_of_the_wrong_kind_is_a_value_error(tmp_path):
    """Our own checks call it a TypeError, which the reader of a file does not raise."""
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nmeta_optimizer: {betas: [0.9, -.inf]}\n")
    with pytest.raises(ValueError, match=r"betas must be tuple"):
        load_config(path)
