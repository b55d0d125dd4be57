"""Undoes what a forward pass changes besides the tensors that it returns."""

import contextlib
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._autograd import _unsafe_set_version_counter

from .random_state import GENERATORS, Generator, RandomState

MOST_OBJECTS = 10_000
"""At most this many objects around a model are looked at, the nearest first."""
MOST_ITEMS = 10_000
"""Containers with more items are restored, and not looked into."""
_MOST_BYTES = 2**20
"""Arrays of numpy with more bytes are not saved."""

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, type, types.ModuleType),
    *(types.FunctionType, types.BuiltinFunctionType, types.CodeType, torch.dtype),
    *(torch.device, torch.Size),
)
_CONTAINERS = (dict, list, set, deque)
_BARE = frozenset({*_CONTAINERS, OrderedDict})
"""Containers without attributes."""


class _Kind(Enum):
    """What `Isolation` does with an object; it depends on the object's type alone."""

    ATOM = "nothing"
    TENSOR = "remembers it"
    GENERATOR = "saves its state"
    ARRAY = "saves its values"
    FIXED = "looks into it"
    BARE = "saves its items and looks into them"
    CONTAINER = "saves items and attributes and looks into them"
    OBJECT = "saves its attributes and looks into them"


def _kind_of(kind: type) -> _Kind:
    """Return what is done with objects of a type."""
    if kind in _BARE:
        return _Kind.BARE
    for bases, found in (
        (_ATOMS, _Kind.ATOM),
        (Tensor, _Kind.TENSOR),
        (GENERATORS, _Kind.GENERATOR),
        (np.ndarray, _Kind.ARRAY),
        ((tuple, frozenset), _Kind.FIXED),
        (_CONTAINERS, _Kind.CONTAINER),
    ):
        if issubclass(kind, bases):
            return found
    return _Kind.OBJECT


class Isolation:
    """What a model's forward pass may change, saved before the pass.

    These are put back by `restore`:

    * parameters, buffers, gradients and other tensors that are written in place,
    * attributes of modules and of the objects that they hold, also in nested
      dictionaries, lists, sets and deques; small numpy arrays,
    * objects among the inputs, and what hooks and `forward` reach through closures,
      bound methods, default arguments and global variables,
    * random numbers: those of Python, numpy, torch, and of every generator found.

    Files, sockets, printed text, iterators, class attributes and objects of other
    languages stay changed.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[Any] = ()) -> None:
        """Save the surroundings of `model` and of the objects among `inputs`."""
        self._tensors: dict[int, tuple[Tensor, int]] = {}
        self._saved: dict[int, tuple[Tensor, Tensor, Tensor, int]] = {}
        self._contents: list[tuple[Any, Any]] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        generators: list[Generator] = []
        self._explore([*_reached_by(model), *inputs], generators)
        self._flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
        for parameter, _, grad in self._flags:
            self._note(parameter)
            if grad is not None:
                self._note(grad)
        for buffer in model.buffers():
            self._note(buffer)
            self.protect(buffer)
        self._random = RandomState.capture(model, generators)

    def _note(self, tensor: Tensor) -> None:
        """Remember a tensor that exists before the pass."""
        version = 0 if tensor.is_inference() else tensor._version
        self._tensors.setdefault(_address(tensor), (tensor, version))

    def protect(self, tensor: Tensor) -> None:
        """Save a tensor that is about to be overwritten, if it existed before."""
        key = _address(tensor)
        if not key or key not in self._tensors or key in self._saved:
            return
        if not tensor.numel():
            return
        owner, version = self._tensors[key]
        with torch.no_grad():
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            whole = tensor.detach().as_strided((size,), (1,), 0)
            self._saved[key] = owner, whole, whole.clone(), version

    def restore(self) -> None:
        """Put everything back."""
        for item, copy in self._contents:
            _refill(item, copy)
        for array, copy in self._arrays:
            array[...] = copy
        for item, attributes in self._attributes:
            _set_attributes(item, attributes)
        for parameter, flag, grad in self._flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)
            parameter.grad = grad
        with torch.no_grad():
            for owner, whole, copy, version in self._saved.values():
                whole.copy_(copy)
                # The values are those that autograd saw, so it may rely on them.
                _set_version(owner, version)
        self._random.restore()

    def _explore(self, start: Iterable[Any], generators: list[Generator]) -> None:
        """Save objects and what they hold, breadth first."""
        known: set[int] = set()
        queue, kinds = deque(start), dict.fromkeys(_ATOMS, _Kind.ATOM)
        while queue and len(known) < MOST_OBJECTS:
            item = queue.popleft()
            kind = kinds.get(type(item))
            if kind is None:
                kind = kinds[type(item)] = _kind_of(type(item))
            if kind is _Kind.ATOM or id(item) in known:
                continue
            known.add(id(item))
            if kind is _Kind.TENSOR:
                self._note(item)
            elif kind is _Kind.GENERATOR:
                generators.append(item)
            elif kind is _Kind.ARRAY:
                if item.nbytes <= _MOST_BYTES and item.flags.writeable:
                    self._arrays.append((item, item.copy()))
            elif kind is _Kind.FIXED:
                queue.extend(item if len(item) <= MOST_ITEMS else ())
            else:
                if kind is not _Kind.OBJECT:
                    self._contents.append((item, _copied(item) if item else ()))
                    if 0 < len(item) <= MOST_ITEMS:
                        queue.extend(item.values() if isinstance(item, dict) else item)
                attributes = None if kind is _Kind.BARE else _attributes_of(item)
                if attributes:
                    self._attributes.append((item, attributes))
                    queue.extend(attributes.values())


@contextlib.contextmanager
def isolated(
    model: nn.Module, inputs: Iterable[Any] = ()
) -> Iterator[Callable[[Tensor], None]]:
    """Undo afterwards what happens inside.

    Yields:
        A function that must be told of every tensor before it is overwritten.
    """
    isolation = Isolation(model, inputs)
    try:
        yield isolation.protect
    finally:
        isolation.restore()


@dataclass(frozen=True, slots=True)
class _Missing:
    """Marks an attribute that an object with slots does not have."""


_MISSING = _Missing()


def _reached_by(model: nn.Module) -> Iterator[Any]:
    """Return modules, and what their hooks and their `forward` can reach."""
    yield from model.modules()
    for kind in {type(module) for module in model.modules()}:
        yield from _reached_by_code(kind.forward)
    for module in model.modules():
        for name, hooks in vars(module).items():
            if name.endswith("_hooks") and isinstance(hooks, Mapping):
                for hook in hooks.values():
                    yield from _reached_by_code(hook)


def _reached_by_code(function: Any) -> Iterator[Any]:
    """Return what a function reaches: its object, closure, defaults and globals."""
    if isinstance(function, tuple):  # a hook with its settings
        for part in function:
            yield from _reached_by_code(part)
        return
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield owner
        function = getattr(function, "__func__", function)
    wrapped = getattr(function, "func", None)  # functools.partial
    if wrapped is not None and not isinstance(function, types.FunctionType):
        yield from getattr(function, "args", ())
        yield from getattr(function, "keywords", {}).values()
        yield from _reached_by_code(wrapped)
        return
    if not isinstance(function, types.FunctionType):
        yield function
        return
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable without a value yet
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    known = function.__globals__
    for name in function.__code__.co_names:
        if isinstance(known.get(name), (*_CONTAINERS, *GENERATORS)):
            yield known[name]


def _attributes_of(item: Any) -> dict[str, Any]:
    """Return an object's attributes by name, those in slots included."""
    try:
        found = dict(vars(item))
    except TypeError:
        found = {}
    if isinstance(item, nn.Module):
        return found
    for kind in type(item).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                name = f"_{kind.__name__.lstrip('_')}{name}" if private else name
                found[name] = getattr(item, name, _MISSING)
    return found


def _set_attributes(item: Any, attributes: dict[str, Any]) -> None:
    """Give an object the attributes that it had, touching only those that differ."""
    try:
        own = vars(item)
    except TypeError:
        own = {}
    for name in own.keys() - attributes.keys():
        del own[name]
    for name, value in attributes.items():
        if name in own or not hasattr(type(item), name):
            if own.get(name, _MISSING) is not value:
                own[name] = value
        elif getattr(item, name, _MISSING) is not value:
            with contextlib.suppress(AttributeError):  # a frozen object cannot change
                delattr(item, name) if value is _MISSING else setattr(item, name, value)


def _copied(item: Any) -> Any:
    if isinstance(item, dict):
        return dict(item)
    return next(kind(item) for kind in _CONTAINERS[1:] if isinstance(item, kind))


def _refill(item: Any, copy: Any) -> None:
    """Give a container the items that it had, unless it still has them."""
    if not item and not copy:
        return
    if not copy:
        item.clear()
    elif isinstance(item, dict):
        pairs = zip(item.items(), copy.items(), strict=False)
        same = len(item) == len(copy) and all(
            a[0] is b[0] and a[1] is b[1] for a, b in pairs
        )
        if not same:
            dict.clear(item)
            dict.update(item, copy)
    elif isinstance(item, set):
        if item != copy:
            set.clear(item)
            set.update(item, copy)
    elif len(item) != len(copy) or any(
        a is not b for a, b in zip(item, copy, strict=True)
    ):
        item.clear()
        item.extend(copy)


def _set_version(tensor: Tensor, version: int) -> None:
    if not tensor.is_inference():
        _unsafe_set_version_counter((tensor,), (version,))


def _address(tensor: Tensor) -> int:
    """Return a number for a tensor's storage, 0 if it has none."""
    if tensor.layout != torch.strided:
        return 0
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a tensor of functorch, for example
        return 0
