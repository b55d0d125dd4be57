"""The arguments of an operator's call."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from torch import Tensor


def name_of(func: Any) -> str:
    """Return an operator's name, the same in place and out of place."""
    return func.overloadpacket.__name__.removesuffix("_")


def bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by name."""
    given = {}
    for index, argument in enumerate(func._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given[argument.name] = (
            args[index] if index < len(args) else kwargs.get(argument.name, default)
        )
    return given


def settings_of(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the arguments that are plain numbers, flags, words or lists of them."""
    kept = []
    for key, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        parts = value if isinstance(value, tuple) else (value,)
        if all(isinstance(part, bool | int | float | str) for part in parts):
            kept.append((key, value))
    return tuple(kept)


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor."""
    return isinstance(value, Tensor)
