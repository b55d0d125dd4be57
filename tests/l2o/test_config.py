"""The base of all configurations: strict types, strict keys, plain values and back."""

import json
from typing import Literal, Protocol, runtime_checkable

import pytest
from pydantic import TypeAdapter, ValidationError

from l2o.config import (
    BelowOne,
    NotNegative,
    Positive,
    Share,
    config_from_values,
    config_values,
    frozen_config,
)


@runtime_checkable
class Shaped(Protocol):
    def area(self) -> float: ...


@frozen_config
class Square:
    kind: Literal["square"] = "square"
    side: Positive[float] = 1.0

    def area(self) -> float:
        return self.side**2


@frozen_config
class Disc:
    kind: Literal["disc"] = "disc"
    radius: float = 1.0


@frozen_config
class Sheet:
    shape: Square | Disc | Shaped = Square()
    cuts: tuple[int, ...] = ()
    corner: tuple[float, float] | None = None
    shapes: tuple[Square | Disc, ...] = ()
    is_flat: bool = True


def test_plain_values_and_back():
    sheet = Sheet(
        shape=Disc(radius=2.0), cuts=(1, 2), corner=(0.5, 1.0), shapes=(Square(),)
    )
    plain = json.loads(json.dumps(config_values(sheet)))
    assert config_from_values(Sheet, plain) == sheet


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"side": "1"}, TypeError, "side must be float; got '1' of type str"),
        ({"side": float("inf")}, ValueError, "side must be finite"),
        ({"side": float("nan")}, ValueError, "side must be finite"),
        ({"side": True}, TypeError, "side must be float"),
        ({"side": -1.0}, ValueError, "side must be above zero"),
        ({"kind": "disc"}, ValueError, "kind must be one of 'square'; got 'disc'"),
    ],
)
def test_a_bad_value_is_one_clear_error(settings, error, words):
    with pytest.raises(error, match=words):
        Square(**settings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cutz": []}, "got also \\['cutz'\\]"),
        ({"shape": {"kind": "star"}}, "kinds \\['disc', 'square'\\]; got 'star'"),
        ({"shape": {"kind": ["disc"]}}, "got \\['disc'\\]"),
        ({"cuts": [1.5]}, "cuts must be"),
        ({"corner": [1.0]}, "corner must be"),
        ({"is_flat": 1}, "is_flat must be bool"),
        ({"shape": 3}, "shape must be"),
        (None, "needs a mapping"),
    ],
)
def test_bad_plain_values_are_value_errors(values, words):
    with pytest.raises(ValueError, match=words):
        config_from_values(Sheet, values)


def test_a_part_from_outside_is_welcome():
    """A protocol in a union admits what no list names."""

    class Triangle:
        def area(self) -> float:
            return 0.5

    assert Sheet(shape=Triangle()).shape.area() == 0.5
    with pytest.raises(TypeError, match="shape must be"):
        Sheet(shape=object())


def test_pydantic_is_as_strict():
    adapter = TypeAdapter(Sheet)
    assert adapter.validate_python({"cuts": [1]}).cuts == (1,)
    with pytest.raises(ValidationError):
        adapter.validate_python({"cutz": [1]})


@frozen_config
class Ranges:
    count: NotNegative[int] | None = None
    share: Share[float] | Literal["all"] = 1.0
    decay: BelowOne[float] = 0.0
    sizes: tuple[Positive[int], ...] = ()
    plain: float = -1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": -1}, "Ranges count must not be negative; got count=-1"),
        ({"share": 1.5}, "share must be above zero and at most 1; got share=1.5"),
        ({"share": 0.0}, "share must be above zero"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\); got decay=1.0"),
        ({"decay": -0.1}, "a share below 1, or 0 for none"),
        ({"sizes": (3, 0)}, "sizes must be above zero; got sizes=0"),
    ],
)
def test_ranges(settings, words):
    with pytest.raises(ValueError, match=words):
        Ranges(**settings)


def test_ends_of_ranges():
    Ranges(count=0, share="all", decay=0.999, sizes=(1,), plain=-2.0)
    Ranges(share=1)


def test_a_range_never_sees_a_value_of_another_type():
    with pytest.raises(TypeError, match="Ranges decay must be float"):
        Ranges(decay="0.5")
