"""How the optimizer lets `take_step` write: over parameters and averages.

The numbers are those of the pure step, bit for bit. New tensors, a second state above
all, would take several times the memory of the parameters.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from l2o.rule.memory import PURE, Addition
from l2o.rule.rule import AbstractRule, plain_averages
from l2o.rule.state import (
    Averages,
    ParameterState,
    State,
    Tensors,
    constant,
    widened,
)
from l2o.rule.tensor_lists import add_lists, uses_lists, zeros_unless

from .rounding import noise_of, rounded, seed_of


class InPlaceMemory:
    """Writes over parameters and averages; see `l2o.rule.memory.Memory`."""

    def may_ask(self, device: torch.device) -> bool:
        """Return whether the device answers at once."""
        return device.type == "cpu" and not torch.compiler.is_compiling()

    def advance(
        self, rule: AbstractRule, state: State, grads: Tensors, is_finite: Tensor | None
    ) -> State:
        """Return the state after one more gradient, written in place if it can be."""
        averages = plain_averages(rule)
        if averages is None:
            return PURE.advance(rule, state, grads, is_finite)
        if not torch.compiler.is_compiling():
            own = {name: state[name] for name in grads}
            advance_in_place(averages, own, grads, is_finite)
            return state
        new = PURE.advance(rule, widened_averages(state), grads, is_finite)
        return narrowed_like(new, state)

    def write(
        self, additions: Sequence[Addition], is_sound: Tensor | None
    ) -> list[Tensor]:
        """Return the parameters, written unless the step is not sound."""
        params = [item.param for item in additions]
        if uses_lists(params) and all(item.param is item.kept for item in additions):
            changes = [item.change for item in additions]
            if is_sound is not None:
                changes = zeros_unless(is_sound, changes)
            add_lists(params, changes)
            return params
        for item in additions:
            param, kept, change = item
            if is_sound is None and kept.dtype == change.dtype == param.dtype:
                torch.add(kept, change, out=param)
            else:
                param.copy_(PURE.write([item], is_sound)[0])
        return params


IN_PLACE = InPlaceMemory()

PIECE_ENTRIES = 2**16
"""Entries that are advanced at a time on a CPU: what one operation leaves is still in
the cache when the next one reads it. An accelerator takes all at once."""

_ATEN = torch.ops.aten
"""Where operations on lists of tensors are: one kernel for many small ones. Each is
named with its signature; to find it by trying takes a thousand times as long."""


class _Piece(NamedTuple):
    """Some entries of a parameter."""

    averages: tuple[Tensor, ...]
    """Momenta and the second moment; views, to be written."""
    grad: Tensor
    noise: list[Tensor]
    """For rounding each average to bfloat16; none for wider ones."""


def advance_in_place(
    averages: Averages,
    state: Mapping[str, ParameterState],
    grads: Mapping[str, Tensor],
    are_finite: Tensor | None = None,
) -> None:
    """Let a state become what `averages.advance` returns, bit for bit.

    Averages in bfloat16 are computed in the gradient's type and rounded
    stochastically.

    Args:
        averages: which averages they are.
        state: of each parameter in `grads`; written.
        grads: name to gradient, in float32 or wider.
        are_finite: on their device, whether all gradients are; if not, they must be
            given as zeros, and the state stays as it is. None says that they are.
    """
    alike: defaultdict[torch.dtype, list[str]] = defaultdict(list)
    for name, grad in grads.items():
        alike[grad.dtype].append(name)
    for names in alike.values():
        like = grads[names[0]]
        keeps, weights = averages.keeps(like.dtype), averages.weights(like.dtype)
        if are_finite is None:
            counted = torch.ones((), dtype=torch.int64, device=like.device)
        else:
            ones = constant([1.0], like)
            keeps = torch.where(are_finite, constant(keeps, like), ones).unbind()
            counted = are_finite.to(torch.int64)
        steps = [state[name]["step"] for name in names]
        _ATEN._foreach_add_.List(steps, [counted] * len(steps))
        for pieces in _batches({name: state[name] for name in names}, grads):
            _advance(pieces, keeps, weights)


def widened_averages(state: State) -> State:
    """Return a state with its averages in float32 or wider."""
    return {
        name: {key: v if key == "step" else widened(v) for key, v in item.items()}
        for name, item in state.items()
    }


def narrowed_like(state: State, like: State) -> State:
    """Return a state with its averages in bfloat16 where another's are."""
    return {name: _narrowed(name, item, like[name]) for name, item in state.items()}


def _narrowed(name: str, item: ParameterState, like: ParameterState) -> ParameterState:
    if like["momenta"].dtype != torch.bfloat16:
        return item
    *noise, last = noise_of(item["second_moment"], _seed(name, item))
    rows = zip(item["momenta"].unbind(), noise, strict=True)
    return {
        **item,
        "momenta": torch.stack([rounded(row, bits) for row, bits in rows]),
        "second_moment": rounded(item["second_moment"], last),
    }


def _seed(name: str, item: ParameterState) -> Tensor:
    """Return where a parameter's noise starts; the state counts this step already."""
    return seed_of(item["step"], crc32(name.encode()))


def _advance(
    pieces: Sequence[_Piece], keeps: Sequence[float | Tensor], weights: Sequence[float]
) -> None:
    """Let each average become `keep * average + weight * gradient`."""
    grads = [piece.grad for piece in pieces]
    for place, keep in enumerate(keeps):
        stored = [piece.averages[place] for piece in pieces]
        wide = [item.to(grad) for item, grad in zip(stored, grads, strict=True)]
        if isinstance(keep, Tensor):
            _ATEN._foreach_mul_.Tensor(wide, keep)
        else:
            _ATEN._foreach_mul_.Scalar(wide, keep)
        if place == len(keeps) - 1:  # the second moment
            _ATEN._foreach_addcmul_.Scalar(wide, grads, grads, weights[place])
        else:
            _ATEN._foreach_add_.List(wide, grads, alpha=weights[place])
        for piece, item, value in zip(pieces, stored, wide, strict=True):
            if item is not value:
                noise = piece.noise
                item.copy_(rounded(value, noise[place]) if noise else value)


def _batches(
    state: Mapping[str, ParameterState], grads: Mapping[str, Tensor]
) -> Iterator[list[_Piece]]:
    """Cut long tensors, and put short ones together."""
    found: list[_Piece] = []
    size = 0
    for name, item in state.items():
        for piece in _cut(name, item, grads[name]):
            found.append(piece)
            size += piece.grad.numel()
            if size >= PIECE_ENTRIES and piece.grad.device.type == "cpu":
                yield found
                found, size = [], 0
    if found:
        yield found


def _cut(name: str, item: ParameterState, grad: Tensor) -> Iterator[_Piece]:
    """Cut the averages of one parameter and its gradient alike."""
    whole = (*item["momenta"].unbind(), item["second_moment"], grad)
    is_narrow = whole[0].dtype == torch.bfloat16
    seed = _seed(name, item) if is_narrow else None
    is_long = grad.device.type == "cpu" and grad.numel() > PIECE_ENTRIES
    cut = [whole]
    if is_long and all(tensor.is_contiguous() for tensor in whole):
        rows = [tensor.view(-1).split(PIECE_ENTRIES) for tensor in whole]
        cut = zip(*rows, strict=True)
    for place, (*averages, part) in enumerate(cut):
        noise = [] if seed is None else noise_of(part, seed, place * PIECE_ENTRIES)
        yield _Piece(tuple(averages), part, noise)
