"""One call of an operator, as its rule sees it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor
from torch._ops import OpOverload

from l2o.graph.neural_graph import Operation

from .label_store import LabelStore
from .labels import Labelled, Labels
from .tracer import Tracer

Found: TypeAlias = Labels | tuple[Labels, ...] | None
"""The labels of an operator's results; one `Labels` stands for all results. None means
that the call cannot be followed."""


@dataclass(slots=True)
class Call:
    """An operator with its arguments, after it has run."""

    func: OpOverload
    """The operator."""
    args: Sequence[Any]
    """Positional arguments."""
    kwargs: Mapping[str, Any]
    """Named arguments."""
    store: LabelStore
    """Where the labels of tensors are looked up."""
    _given: dict[str, Any] | None = None
    _tensors: list[Tensor] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in order."""
        if self._tensors is None:
            self._tensors = tensors_in(self.args, self.kwargs)
        return self._tensors

    @property
    def name(self) -> str:
        """Name in the table of operators, the same in place and out of place."""
        return name_of(self.func)

    @property
    def given(self) -> dict[str, Any]:
        """All arguments by name, defaults included."""
        if self._given is None:
            args, kwargs = self.args, self.kwargs
            self._given = {
                name: args[index] if index < len(args) else kwargs.get(name, default)
                for index, (name, default) in enumerate(_arguments(self.func))
            }
        return self._given

    @property
    def operation(self) -> Operation:
        """The operator's name with the arguments that are no tensors."""
        return Operation(name=self.name, settings=_settings(self.given))

    def see(self, name: str) -> Labelled:
        """Return a tensor argument with its labels."""
        return self.store.see(self.given[name])

    def find(self, name: str) -> Labelled | None:
        """Return a tensor argument that may be missing, with its labels."""
        value = self.given.get(name)
        return None if value is None else self.store.see(value)

    def only_input(self) -> Labelled | None:
        """Return the argument `self` or `input` with its labels.

        Returns:
            None if it is no tensor, or if another argument has labels, too.
        """
        data = self.given.get("self", self.given.get("input"))
        if not is_tensor(data):
            return None
        others = tensors_in(self.args[1:], self.kwargs)
        if any(not self.store.see(other).labels.is_plain for other in others):
            return None
        return self.store.see(data)

    def repeat_on(self, values: Tensor) -> Tensor:
        """Run the operator again with other values for its first argument."""
        rest = [_on_cpu(value) for value in self.args[1:]]
        kwargs = {name: _on_cpu(value) for name, value in self.kwargs.items()}
        result = self.func(values, *rest, **kwargs)
        return result if is_tensor(result) else result[0]


Rule: TypeAlias = Callable[[Tracer, Call], Found]
"""What an operator does to labels. It is called after the operator has run, and only
where an argument has labels."""


def first_of(labels: Labels) -> tuple[Labels, ...]:
    """Return labels of results of which only the first has neurons."""
    return labels, Labels(depends=True)


@functools.cache
def name_of(func: OpOverload) -> str:
    """Return an operator's name in the table, such as "addmm" or "mylib::scale".

    The overload and the underscore of the in-place form are dropped.
    """
    name = func.overloadpacket.__name__.removesuffix("_")
    return name if func.namespace == "aten" else f"{func.namespace}::{name}"


@functools.cache
def _arguments(func: OpOverload) -> list[tuple[str, Any]]:
    """Return the operator's arguments with their defaults."""
    return [
        (item.name, item.default_value if item.has_default_value() else None)
        for item in func._schema.arguments
    ]


def _settings(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the arguments that are plain numbers, flags, words or lists of them."""
    kept = []
    for key, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        parts = value if isinstance(value, tuple) else (value,)
        if all(isinstance(part, bool | int | float | str) for part in parts):
            kept.append((key, value))
    return tuple(kept)


def tensors_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among an operator's arguments, also inside lists."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor."""
    return isinstance(value, Tensor)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.cpu() if is_tensor(value) else value
