"""The base of all configurations: strict types, strict keys, plain values and back."""

import json
from typing import Literal, Protocol, runtime_checkable

import pytest
from pydantic import TypeAdapter, ValidationError

from l2o.config import (
    check_not_negative,
    check_positive,
    check_share,
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
    side: float = 1.0

    def area(self) -> float:
        return self.side**2

    def __post_init__(self) -> None:
        check_positive("Square", side=self.side)


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


def test_ranges():
    check_not_negative("A", b=0.0)
    check_share("A", b=1.0)
    with pytest.raises(ValueError, match="A b must not be negative; got b=-1"):
        check_not_negative("A", b=-1)
    with pytest.raises(ValueError, match="above zero and at most 1"):
        check_share("A", b=1.5)
