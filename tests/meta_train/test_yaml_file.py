import pytest

from meta_train.config import load_config, parse_config
from meta_train.yaml_file import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b", "the key 'name' twice"),
        ("a: {b: 1, b: 2}", "the key 'b' twice"),
        ("a: &x [1]\nb: *x", "an alias, which is not allowed"),
        ("a: &a [*a]", "an alias, which is not allowed"),
        ("[" * 20_000, "nests too deeply"),
        ("{a: " * 20_000, "nests too deeply"),
        ("name: [1", "expected"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
    ids=["twice", "twice inside", "alias", "itself", "lists", "maps", "open", "code"],
)
def test_what_hides_or_multiplies_values_is_refused_in_one_line(
    text, message, tmp_path
):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(path, owner="load_config", shipped="here")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_other_bytes_are_refused_too(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ValueError, match="Correct the file"):
        load_config(path)


def test_plain_values_are_read():
    assert parse_yaml("a: [1, 2.5e-3, x]\nb: {c: null}") == {
        "a": [1, 2.5e-3, "x"],
        "b": {"c": None},
    }


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "../x"},
        {"name": "a/b"},
        {"name": ".."},
        {"name": " a"},
        {"name": "a\nb"},
        {"name": "a", "seed": -1},
        {"name": "a", "validation": {"seeds": [-1]}},
        {"name": "a", "tasks": [{"kind": "family", "seed": -1}]},
        {"name": "a", "tasks": [{"weight": float("inf")}]},
        {"name": "a", "meta_optimizer": {"lr": float("inf")}},
        {"name": "a", "meta_optimizer": {"lr": float("nan")}},
        {"name": "a", "meta_optimizer": {"betas": [0.9, 1.0]}},
        {"name": "a", "estimator": {"kind": "nres", "sigma": float("inf")}},
        {"name": "a", "checkpoint_minutes": float("inf")},
    ],
    ids=str,
)
def test_values_that_would_spoil_a_run_are_refused_when_it_is_read(values):
    with pytest.raises(ValueError, match="is no configuration of a meta-training run"):
        parse_config(values, origin="here")
