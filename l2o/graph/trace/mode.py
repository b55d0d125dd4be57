"""Watching a real forward pass, operator by operator."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._decomp import decomposition_table
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from l2o.graph.neural_graph import Operation

from .calls import Call, name_of, tensors_in
from .gradients import differentiate, label_gradient, label_gradients
from .labels import Labels
from .operators import OPERATORS, labels_of, take_apart
from .trace_log import axes_of
from .tracer import Tracer


class TraceMode(TorchDispatchMode):
    """Runs every operator as it is, and labels its results.

    Operators without a rule are taken apart where torch knows how; what is left makes
    `Tracer.lose` give up the neurons and parameters that it reads.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch keeps its compiler out of every operator of this mode.

        No need: `replay` keeps it out of the whole pass, for far less time.
        """
        return False

    def __init__(self, tracer: Tracer, protect: Callable[[Tensor], None]) -> None:
        """Label for `tracer`; `protect` is told of tensors about to be overwritten."""
        super().__init__()
        self._tracer = tracer
        self._protect = protect
        self._known: dict[object, _Known] = {}
        self._parts: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator and label what it returns."""
        kwargs = dict(kwargs or {})
        if not isinstance(func, OpOverload):
            return self._opaque(func, args, kwargs)
        if _only_views(func):
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        for tensor in written:
            self._protect(tensor)
        if torch._C._current_autograd_node() is not None:
            return self._differentiate(func, args, kwargs)
        if self._is_strange(func, args, kwargs):
            with self:
                taken_apart = _decompose(func, args, kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        if func.overloadpacket.__name__ in ("copy_", "_copy_from"):
            return self._copy(func, args, kwargs)
        result = func(*args, **kwargs)
        self._label(Call(func, args, kwargs, self._tracer.store), result, written)
        return result

    def _differentiate(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operator of a backward pass, whose results `GradientMode` labels."""
        result = func(*args, **kwargs)
        for output in _flat(result):
            if isinstance(output, Tensor) and not self._tracer.store.knows(output):
                self._tracer.store.write(output, Labels(depends=True))
        return result

    def _is_strange(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Whether an operator should be taken apart before it runs."""
        if OPERATORS.get(name_of(func)) is not take_apart:
            return False
        return any(
            not self._tracer.store.see(x).labels.is_plain
            for x in tensors_in(args, kwargs)
        )

    def _label(self, call: Call, result: Any, written: Sequence[Tensor]) -> None:
        """Label what an operator returned; `written` are arguments that it wrote to."""
        store = self._tracer.store
        outputs = [x for x in _flat(result) if isinstance(x, Tensor)]
        memory = {_storage(tensor) for tensor in call.tensors}
        changed = {_storage(tensor) for tensor in written}
        places = [_storage(output) for output in outputs]
        is_view = bool(outputs) and all(
            place in memory and place not in changed for place in places
        )
        if is_view or torch.Tag.inplace_view in call.func.tags:
            return
        labels = self._follow(call)
        for index, output in enumerate(outputs):
            own = labels[min(index, len(labels) - 1)]
            if places[index] in changed and store.is_part(output):
                self._tell_apart(own.planes)
            store.write(output, _fitting(own, output))

    def _tell_apart(self, planes: Sequence[Tensor]) -> None:
        """Tell the neurons of a part of a tensor from others, once."""
        for plane in planes:
            if id(plane) not in self._parts:
                self._parts[id(plane)] = plane
                self._tracer.log.distinguish(plane)

    def _follow(self, call: Call) -> tuple[Labels, ...]:
        """Return the labels of an operator's results.

        What an operator did on tensors with the same labels, as in every step of a
        loop, is reused instead of computed again: it adds nothing to the log.
        """
        tracer, cache = self._tracer, self._tracer.store.cache
        seen = [tracer.store.see(tensor).labels for tensor in call.tensors]
        key = None
        if all(cache.is_recurring(labels) for labels in seen):
            key = _signature(call, seen)
        if key is not None and key in self._known:
            known = self._known[key]
            tracer.repeat_call(known.weight, known.notes)
            return known.labels
        tracer.start_call()
        size = tracer.log.size
        found = labels_of(tracer, call)
        if found is None:
            self._give_up(str(call.func.overloadpacket), call.tensors)
            return (Labels(depends=True),)
        found = (found,) if isinstance(found, Labels) else found
        found = tuple(cache.shared(labels) for labels in found)
        if key is not None and size == tracer.log.size and not tracer.has_numbered:
            notes = tuple(tracer.notes)
            self._known[key] = _Known(found, tuple(seen), tracer.weight, notes)
        return found

    def _copy(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Copy into a tensor, which may be a part of a labelled one."""
        store = self._tracer.store
        target, source = store.see(args[0]), store.see(args[1])
        result = func(*args, **kwargs)
        source = source.aligned(args[0].dim())
        if source.labels.is_plain and target.planes:
            for plane in target.planes:
                self._tracer.admit(plane, source)
            return result
        if store.is_part(args[0]):
            self._tell_apart((*source.planes, *target.planes))
        store.write(args[0], _fitting(source.labels, args[0]))
        return result

    def _opaque(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what is no plain operator, and give up what it reads."""
        result = func(*args, **kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        self._give_up(str(func), [x for x in leaves if isinstance(x, Tensor)])
        for output in _flat(result):
            if isinstance(output, Tensor):
                self._tracer.store.write(output, Labels(depends=True))
        return result

    def _give_up(self, name: str, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self._tracer.lose(self._tracer.store.see(tensor), name)


@dataclass(frozen=True, slots=True)
class _Known:
    """What an operator did."""

    labels: tuple[Labels, ...]
    """Of its results."""
    seen: tuple[Labels, ...]
    """Of its arguments."""
    weight: str | None
    """Name of the weight that it used."""
    notes: tuple[tuple[tuple[Tensor, ...], Operation], ...]
    """What it recorded on neurons."""


def _signature(call: Call, seen: Sequence[Labels]) -> object | None:
    """Return a key that is equal for calls that do the same, None if there is none."""
    tensors = iter(
        [
            (x.shape, x.stride(), x.dtype, id(labels))
            for x, labels in zip(call.tensors, seen, strict=True)
        ]
    )

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return next(tensors)
        return tuple(map(part, value)) if isinstance(value, list | tuple) else value

    named = [(name, part(value)) for name, value in call.kwargs.items()]
    key = (call.func, tuple(map(part, call.args)), tuple(named))
    try:
        hash(key)
    except TypeError:
        return None
    return key


class GradientMode(TorchFunctionMode):
    """Labels the gradients that a forward pass computes.

    Renumbering neurons renumbers the gradient for a tensor as it renumbers the tensor,
    because the function that is differentiated stays the same. So a gradient gets the
    labels of its tensor, and the operators of the backward pass need no rules.
    """

    def __init__(self, tracer: Tracer) -> None:
        """Label for `tracer`."""
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, and label what it returns if that is a gradient."""
        result = func(*args, **(kwargs or {}))
        if func is torch.autograd.grad:
            names = ("outputs", "inputs", "grad_outputs")
            given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
            with _plainly():
                self._label(given, result)
        elif func in (Tensor.backward, torch.autograd.backward):
            with _plainly():
                label_gradients(self._tracer)
        return result

    def _label(self, given: Mapping[str, Any], result: Sequence[Tensor | None]) -> None:
        outputs, inputs, factors = (
            _flat(given.get(key)) for key in ("outputs", "inputs", "grad_outputs")
        )
        tracer = self._tracer
        for number, output in enumerate(outputs):
            factor = factors[number] if number < len(factors) else None
            known = None if factor is None else tracer.store.see(_unwrapped(factor))
            differentiate(tracer, tracer.store.see(_unwrapped(output)), known)
        for tensor, gradient in zip(inputs, result, strict=True):
            if gradient is not None:
                known = tracer.store.see(_unwrapped(tensor))
                label_gradient(tracer, known, _unwrapped(gradient))


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Compute with labels: outside of modes, `vmap` and `grad`."""
    with temporarily_clear_interpreter_stack(), _disable_current_modes():
        yield


def _unwrapped(tensor: Tensor) -> Tensor:
    """Return the tensor inside the wrappers of functorch."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def _decompose(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operator as simpler ones, where torch knows how."""
    if func in decomposition_table:
        return decomposition_table[func](*args, **kwargs)
    return func.decompose(*args, **kwargs)


def _fitting(labels: Labels, output: Tensor) -> Labels:
    """Return labels that broadcast to `output`; a mask or an index may be smaller."""
    planes = []
    for plane in labels.planes:
        sizes = zip(plane.shape, output.shape, strict=False)
        if plane.dim() == output.dim() and all(a in (1, b) for a, b in sizes):
            planes.append(plane)
    assert len(planes) == len(labels.planes), "a rule returned planes of a wrong shape"
    assert all(axes_of(plane) <= set(range(output.dim())) for plane in planes)
    return labels


def _written(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Return the tensors that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    found = []
    for index, argument in enumerate(func._schema.arguments):
        info = argument.alias_info
        if info is None or not info.is_write:
            continue
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        found += [x for x in _flat(value) if isinstance(x, Tensor)]
    return found


@functools.cache
def _only_views(func: OpOverload) -> bool:
    """Whether an operator writes nothing and returns views of its arguments alone.

    The labels of a view are those of its memory.
    """
    schema = func._schema
    return (
        not schema.is_mutable
        and bool(schema.returns)
        and all(item.alias_info is not None for item in schema.returns)
        and OPERATORS.get(name_of(func)) is None
    )


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0
