"""Configurations: frozen records that check their values and survive JSON."""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

T = TypeVar("T")
N = TypeVar("N", int, float)


@runtime_checkable
class HasKind(Protocol):
    """A configuration of one kind among several."""

    @property
    def kind(self) -> str:
        """Its name in rule files, unlike any other's."""
        ...


@dataclass(frozen=True, slots=True)
class Range:
    """What the numbers of a field must satisfy; stands in its `Annotated` type."""

    check: Callable[..., None]
    """Takes the name of the class and, by keyword, the value; raises ValueError."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def frozen_config(cls: type[T]) -> type[T]:
    """Make a class a configuration: a frozen dataclass with keyword-only fields.

    Types, choices (`Literal`) and ranges (`Positive[int]`) of all fields are checked
    when one is made, before its own `__post_init__`; numbers must be finite. pydantic
    refuses unknown keys.

    Args:
        cls: a class with annotated fields. Fields may be numbers, strings, booleans,
            None, tuples, other configurations, protocols that can be checked at run
            time, and unions of these.

    Example:
        >>> @frozen_config
        ... class Layer:
        ...     width: Positive[int] = 32
        ...     activation: Literal["relu", "silu"] = "relu"
        >>> Layer(width=8)
        Layer(width=8, activation='relu')
    """
    own_check = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        _check_fields(self)
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]
    cls.__pydantic_config__ = {  # pyright: ignore[reportAttributeAccessIssue]
        "extra": "forbid",
        "arbitrary_types_allowed": True,
    }
    return dataclass(frozen=True, kw_only=True)(cls)


def config_values(config: Any) -> Any:
    """Return a configuration as plain dictionaries, lists and values.

    Args:
        config: a configuration, or what a field of one may hold.
    """
    if is_dataclass(config):
        return {
            item.name: config_values(getattr(config, item.name))
            for item in fields(config)
        }
    if isinstance(config, tuple | list):
        return [config_values(item) for item in config]
    return config


def config_from_values(kind: type[T], values: Any) -> T:
    """Return the configuration that plain values describe; inverse of `config_values`.

    Among several configurations a field's `kind` decides.

    Args:
        kind: the class.
        values: field name to plain value; lists become tuples.

    Raises:
        ValueError: if a field is unknown or missing, if a `kind` does not exist, or if
            a value has the wrong type or is out of range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{kind.__name__} needs a mapping of its fields; got {values!r}. Write the "
            "configuration with config_values."
        )
    hints = _hints(kind)
    unknown = sorted(map(str, values.keys() - hints.keys()))
    if unknown:
        raise ValueError(
            f"{kind.__name__} has the fields {sorted(hints)}; got also {unknown}. "
            "Remove them, or load the file with the version of l2o that wrote it."
        )
    needed = [
        item.name
        for item in fields(kind)  # pyright: ignore[reportArgumentType]
        if item.default is MISSING and item.default_factory is MISSING
    ]
    missing = sorted(set(needed) - values.keys())
    if missing:
        raise ValueError(
            f"{kind.__name__} needs the fields {missing}; got only {sorted(values)}. "
            "Add them."
        )
    found = {name: _from_plain(hints[name], item) for name, item in values.items()}
    try:
        return kind(**found)
    except TypeError as error:
        raise ValueError(str(error)) from error


def check_positive(owner: str, **values: int | float) -> None:
    """Raise ValueError unless every value is above zero.

    Args:
        owner: the public name that the message begins with.
        **values: what to check, by the name of the field.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(
                f"{owner} {name} must be above zero; got {name}={value}. "
                "Choose a positive value."
            )


def check_not_negative(owner: str, **values: int | float) -> None:
    """Raise ValueError unless every value is zero or above; as `check_positive`."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(
                f"{owner} {name} must not be negative; got {name}={value}. "
                "Choose a positive value, or 0 for none."
            )


def check_share(owner: str, **values: int | float) -> None:
    """Raise ValueError unless every value lies in (0, 1]; as `check_positive`."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ValueError(
                f"{owner} {name} must be above zero and at most 1; got {name}={value}. "
                "Choose a share, for example 0.5, or 1 for the whole."
            )


def check_below_one(owner: str, **values: int | float) -> None:
    """Raise ValueError unless every value lies in [0, 1); as `check_positive`."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(
                f"{owner} {name} must lie in [0, 1); got {name}={value}. "
                "Choose a share below 1, or 0 for none."
            )


Positive: TypeAlias = Annotated[N, Range(check_positive)]
"""A number above zero, as in `width: Positive[int]`."""
NotNegative: TypeAlias = Annotated[N, Range(check_not_negative)]
"""A number that is zero or above."""
Share: TypeAlias = Annotated[N, Range(check_share)]
"""A number in (0, 1]."""
BelowOne: TypeAlias = Annotated[N, Range(check_below_one)]
"""A number in [0, 1)."""


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a configuration's fields."""
    hints = get_type_hints(kind)
    return {
        item.name: hints[item.name]
        for item in fields(kind)  # pyright: ignore[reportArgumentType]
    }


@cache
def _ranges(kind: type) -> dict[str, Any]:
    """Return the types of a configuration's fields with their ranges."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in _hints(kind)}


def _check_range(owner: str, name: str, hint: Any, value: Any) -> None:
    """Raise ValueError unless the numbers of a field lie in their ranges."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for item in arguments[1:]:
            if isinstance(item, Range) and _fits(arguments[0], value):
                item.check(owner, **{name: value})
    elif origin in (Union, types.UnionType):
        for member in arguments:
            _check_range(owner, name, member, value)
    elif origin is tuple and isinstance(value, tuple):
        whole = arguments[1:] == (...,)
        members = arguments[:1] * len(value) if whole else arguments
        for member, item in zip(members, value, strict=True):
            _check_range(owner, name, member, item)


def _check_fields(config: Any) -> None:
    """Raise unless every field has a value of its type, in its range."""
    owner = type(config).__name__
    ranges = _ranges(type(config))
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        if _fits(hint, value):
            _check_range(owner, name, ranges[name], value)
            continue
        choices = _choices(hint)
        if (
            choices
            and not isinstance(value, bool)
            and type(value) in map(type, choices)
        ):
            listed = ", ".join(map(repr, choices))
            raise ValueError(
                f"{owner} {name} must be one of {listed}; got {value!r}. Choose one of "
                "them, or load the file with the version of l2o that wrote it."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{owner} {name} must be finite; got {name}={value}. Choose a number."
            )
        raise TypeError(
            f"{owner} {name} must be {_described(hint)}; got {value!r} of type "
            f"{type(value).__name__}. Pass a value of that type."
        )


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value has a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(item, value) for item in arguments)
    if origin is Literal:
        return any(value == item and type(value) is type(item) for item in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[1:] == (...,):
            return all(_fits(arguments[0], item) for item in value)
        return len(value) == len(arguments) and all(map(_fits, arguments, value))
    if origin is not None:
        return isinstance(value, origin)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else hint)


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the values that a type's literals allow."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(value for item in get_args(hint) for value in _choices(item))
    return ()


def _described(hint: Any) -> str:
    """Return a type as a reader would write it."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _from_plain(hint: Any, value: Any) -> Any:
    """Return what a plain value means to a field of some type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _of_union(arguments, value)
    if origin is tuple and isinstance(value, list | tuple):
        inner = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(inner) == len(value):
            return tuple(map(_from_plain, inner, value))
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, Mapping):
            return value
        _check_kind((hint,), value)
        return config_from_values(hint, value)
    return value


def _of_union(members: tuple[Any, ...], value: Any) -> Any:
    """Return what a plain value means to the member of a union that it fits."""
    if isinstance(value, Mapping):
        configs = tuple(m for m in members if isinstance(m, type) and is_dataclass(m))
        if configs:
            return config_from_values(_check_kind(configs, value), value)
    if isinstance(value, list):
        for member in members:
            if get_origin(member) is tuple:
                return _from_plain(member, value)
    return value


def _check_kind(choices: tuple[type, ...], values: Mapping[str, Any]) -> type:
    """Return the configuration whose `kind` the values name."""
    by_kind = {getattr(choice, "kind", None): choice for choice in choices}
    if len(choices) == 1 and ("kind" not in values or None in by_kind):
        return choices[0]
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in by_kind:
        raise ValueError(
            f"{' | '.join(choice.__name__ for choice in choices)} needs one of the "
            f"kinds {sorted(map(str, by_kind))}; got {kind!r}. Load the file with the "
            "version of l2o that wrote it."
        )
    return by_kind[kind]
