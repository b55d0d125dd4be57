"""Module calls kept for the trace, and the tensors that pass from one to another."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from l2o.graph.trace import RandomState, unwrapped

from .inputs import Inputs, copied

_Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset."""


@dataclass(slots=True, eq=False)
class Call:
    """The first call of an outermost module."""

    module: "weakref.ref[nn.Module]"
    held: frozenset[int]
    """`id` of each of the optimizer's parameters that the module holds."""
    inputs: Inputs
    autocast: tuple[str, torch.dtype] | None
    random_state: RandomState
    outputs: "list[_Returned] | None" = None
    """The tensors that it returned; None until it returns."""
    has_lost: bool = False
    """Whether another call took something that was computed from the outputs."""


class _Returned:
    """A tensor that a call returned; its memory may be freed."""

    def __init__(self, tensor: Tensor) -> None:
        self.geometry = _geometry(tensor)
        self._dtype, self._version = tensor.dtype, _version(tensor)
        self._storage = StorageWeakRef(tensor.untyped_storage())
        node = tensor.grad_fn
        self.number = None if node is None else _number(node)
        """Number of the node of autograd that made it."""

    def lends_memory_to(self, tensor: Tensor) -> bool:
        """Whether a tensor is this one or a view of it, unchanged since."""
        return (
            tensor.dtype == self._dtype
            and tensor.untyped_storage()._cdata == self._storage.cdata
            and not self._storage.expired()
            and _version(tensor) == self._version
        )


@dataclass(frozen=True, slots=True)
class _PassedOn:
    """Stands in kept inputs for a tensor that another call returned."""

    call: Call
    index: int
    value: Tensor


class KeptInputs:
    """Keeps the inputs of calls so that later code cannot change them."""

    def __init__(self) -> None:
        self._tensors: WeakValueDictionary[object, Tensor] = WeakValueDictionary()

    def keep(self, inputs: Inputs, calls: Sequence[Call]) -> Inputs:
        """Return inputs of a call as the trace will need them.

        What an earlier call returned, or a view of it, is passed on when the trace
        runs. A tensor that two calls take is one tensor in the trace, too. An earlier
        call is marked if an input was computed from its outputs.
        """
        return cast(
            Inputs, pytree.tree_map(lambda leaf: self._kept(leaf, calls), inputs)
        )

    def _kept(self, leaf: object, calls: Sequence[Call]) -> object:
        if not isinstance(leaf, Tensor):
            return copied(leaf)
        if not _is_plain(leaf):
            return leaf.detach()
        for call in calls:
            for index, output in enumerate(call.outputs or ()):
                if output.lends_memory_to(leaf):
                    return _PassedOn(call, index, leaf.detach())
        for call in _computed_from(leaf, calls):
            call.has_lost = True
        key = leaf.untyped_storage()._cdata, _geometry(leaf), leaf.dtype, _version(leaf)
        return self._tensors.setdefault(key, leaf.detach())


def returned(outputs: object) -> list[_Returned]:
    """Return what is remembered of a call's outputs."""
    leaves = pytree.tree_leaves(outputs)
    return [_Returned(x) for x in leaves if isinstance(x, Tensor) and _is_plain(x)]


def joined(calls: Sequence[tuple[Call, nn.Module]]) -> tuple[nn.Module, Inputs]:
    """Return one module, and its inputs, that make all the calls in turn."""
    known = {id(call) for call, _ in calls}

    def settle(leaf: object) -> object:
        if isinstance(leaf, _PassedOn) and id(leaf.call) not in known:
            return leaf.value
        return leaf

    inputs = [cast(Inputs, pytree.tree_map(settle, c.inputs)) for c, _ in calls]
    if len(calls) == 1:
        return calls[0][1], inputs[0]
    modules = [unwrapped(module) for _, module in calls]
    return _Together([call for call, _ in calls], modules), (tuple(inputs), {})


class _Together(nn.Module):
    """Several modules as one: each runs on what it was called with.

    A tensor that one of them returned and another took is passed on.
    """

    def __init__(self, calls: Sequence[Call], modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self._calls = list(calls)

    def forward(self, *inputs: Inputs) -> list[Any]:
        """Return the outputs of all modules."""
        outputs: list[Any] = []

        def take(leaf: object) -> object:
            if not isinstance(leaf, _PassedOn):
                return leaf
            leaves = pytree.tree_leaves(outputs[self._calls.index(leaf.call)])
            found = [x for x in leaves if isinstance(x, Tensor) and _is_plain(x)]
            before = (leaf.call.outputs or [])[leaf.index]
            return _same_view(found[leaf.index], before.geometry, _geometry(leaf.value))

        for module, own in zip(self.parts, inputs, strict=True):
            args, kwargs = pytree.tree_map(take, own)
            outputs.append(module(*args, **kwargs))
        return outputs


def _same_view(tensor: Tensor, before: _Geometry, view: _Geometry) -> Tensor:
    """Return the view of a tensor that was taken of another one of its kind.

    Raises:
        ValueError: if the view is not all of it and the batch has another size.
    """
    if view == before:
        return tensor
    if _geometry(tensor)[:2] != before[:2]:
        raise ValueError(
            "a view that is passed from module to module needs the whole batch; got "
            f"shape {tuple(tensor.shape)} in place of {before[0]}. Trace all of it."
        )
    shape, strides, offset = view
    return tensor.as_strided(
        shape, strides, int(tensor.storage_offset()) + offset - before[2]
    )


def _computed_from(tensor: Tensor, calls: Sequence[Call]) -> Iterator[Call]:
    """Find the calls whose outputs autograd reaches from a tensor."""
    makers = {
        output.number: call
        for call in calls
        for output in call.outputs or ()
        if output.number is not None
    }
    if tensor.grad_fn is None or not makers:
        return
    oldest, queue = min(makers), [tensor.grad_fn]
    known = {_number(tensor.grad_fn)}
    while queue:
        node = queue.pop()
        number = _number(node)
        if number in makers:
            yield makers[number]
        for follower, _ in node.next_functions:
            if follower is None:
                continue
            if _number(follower) >= oldest and _number(follower) not in known:
                known.add(_number(follower))
                queue.append(follower)


def _number(node: Any) -> int:
    """Return the number that autograd gave to a node; later nodes have larger ones."""
    return node._sequence_nr()


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory of its own kind."""
    return tensor.layout == torch.strided and not tensor.is_nested


def _version(tensor: Tensor) -> int:
    """Return how often a tensor's memory was written, as far as torch counts it."""
    return 0 if tensor.is_inference() else tensor._version


def _geometry(tensor: Tensor) -> _Geometry:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
