"""Directions of the neuron-level rule: whitened momenta of linear maps, else Adam's."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.graph.matrices import MatrixStacks, Stack
from l2o.nets.fast_ops import in_plain_eager, new_empty

from .blocks import Block, Room, blocks_of, cut
from .neuron_config import NeuronRuleConfig
from .newton_schulz import orthogonalize
from .row_column import Measured, StackValues
from .state import ADAM_EPS, TINY, constant

_FULL_SIGNAL = 5.0
"""How many times the signal floor a momentum's size must be for its small singular
values to be pushed as far as they go."""

_LEAST_FLOOR = 1e-12
"""In place of a signal floor of zero, so that nothing is divided by zero."""


class Directions(NamedTuple):
    """Directions before they are scaled."""

    stacks: list[Tensor]
    """Of each stack, `[matrix, row, column]`."""
    written: dict[str, Tensor]
    """Parameters whose stacks are views of these tensors."""
    log_signal: Tensor
    """`[matrix + 1]`: logarithm of how much signal a whitened momentum has, at most 0;
    0 of all else."""
    is_whitened: Tensor
    """`[matrix + 1]`: 1 where directions have yet to be brought to their size."""


def find_directions(
    config: NeuronRuleConfig, read: Measured, powers: Tensor
) -> Directions:
    """Return the direction of each stack, before it is scaled.

    Args:
        config: of the rule.
        read: what the step reads.
        powers: outputs of the network for matrices, except the scale, from 0 to 1.
    """
    wired, values, clock, statistics = read
    shares = powers[:, 3:]
    *averages, second = clock.ages[2:].unbind()
    # Where gradients have ended, slower averages would move for long.
    gradient, moving, *_ = statistics.moving[:, statistics.num_lines :].unbind()
    floor = config.signal_floor + TINY
    lasting = moving.clamp(max=math.log(floor)).exp()  # times the floor
    newest = config.look_ahead * wired.is_map
    newest = torch.lerp(newest, wired.one, shares[:, 0])
    age = torch.lerp(averages[0], wired.one, newest)
    eps = constant((ADAM_EPS,), age).expand(len(age))
    root = statistics.logs[-1, statistics.num_lines :].exp()
    aged = age * torch.stack([second.rsqrt(), eps, root])
    lowest = max(config.signal_floor, _LEAST_FLOOR)
    least = torch.addcmul(wired.zero, aged[2], wired.roots, value=_FULL_SIGNAL * lowest)
    columns = [newest, *aged, least]
    for place in range(1, len(averages)):
        share = torch.addcmul(wired.zero, shares[:, place], lasting, value=1 / floor)
        columns += [share, averages[0] / averages[place]]
    table = torch.stack(columns)[:, :, None, None]
    stacks, norms = [], []
    written = _rooms(wired.stacks, values)
    for stack, item in zip(wired.stacks.stacks, values, strict=True):
        own = table[:, stack.matrices].to(item.grad.dtype).unbind()
        if not stack.is_owned:  # its owner is in another stack
            stacks.append(item.grad)
            norms.append(own[4])
            continue
        out = stack.in_place(written)
        direction, norm = _direction(config, stack, item, out, *own)
        if out is not None and direction.data_ptr() != out.data_ptr():
            direction = out.copy_(direction)
        stacks.append(direction)
        norms.append(norm)
    norms = torch.cat([*norms, table[4:5, -1]]).flatten()
    most = 1 / _FULL_SIGNAL
    fresh_floor = config.fresh_floor + TINY
    scale = 1 / (most * fresh_floor)
    signal = torch.addcdiv(wired.zero, norms.to(least.dtype), least, value=scale)
    signal = signal.clamp(TINY * scale, most * scale).log()
    fresh = (gradient - moving).clamp(max=math.log(fresh_floor))
    signal = torch.add(signal, fresh)
    is_whitened = wired.is_map
    if config.map_direction != "whitened":
        is_whitened = torch.zeros_like(is_whitened)
    return Directions(stacks, written, is_whitened * signal, is_whitened)


def _rooms(stacks: MatrixStacks, values: Sequence[StackValues]) -> dict[str, Tensor]:
    """Return memory for the updates of parameters whose stacks are views of them.

    It is allocated before anything else, so that the memory of passing results is used
    again. None where autograd, the compiler or a transform of functorch is at work, and
    on an accelerator, where parameters share stacks.
    """
    like = values[0].grad
    is_alike = all(item.grad.dtype == like.dtype for item in values)
    if like.device.type != "cpu" or not in_plain_eager() or not is_alike:
        return {}
    return {name: new_empty(like, stacks.shapes[name]) for name in stacks.in_place}


def _direction(
    config: NeuronRuleConfig,
    stack: Stack,
    values: StackValues,
    out: Tensor | None,
    newest: Tensor,
    root_factor: Tensor,
    root_offset: Tensor,
    size: Tensor,
    least: Tensor,
    *slower: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the direction of one stack, `[matrix, row, column]`, and norms.

    Args:
        config: of the rule.
        stack: the stack.
        values: its entries.
        out: what may be written and returned; None for a new tensor.
        newest: share of the gradient; like all that follow, `[matrix, 1, 1]`.
        root_factor: what makes Adam's denominator of the root of the second moment,
            ages of both averages corrected.
        root_offset: what is then added.
        size: root mean square that the momentum would have if all gradients of the
            past were alike.
        least: norm that a momentum with enough signal has.
        *slower: share of each slower momentum and what makes up for its age.

    Returns:
        Of a linear map a matrix with singular values near 1, and the norm that its
        momentum had; of all else the direction itself, and `least`.
    """
    is_adam = not stack.is_map or config.map_direction == "adam"
    if is_adam:
        mix = partial(_adam, Room(), root_factor=root_factor, root_offset=root_offset)
    else:
        mix = _mixed
    if in_plain_eager():
        found = torch.empty_like(values.grad) if out is None else out
        for block in blocks_of(values.grad):
            mix(values, block, cut(found, block), newest=newest, slower=slower)
    else:
        found = mix(values, None, None, newest=newest, slower=slower)
    if is_adam:
        return found, least
    if config.map_direction == "momentum":
        return found / size, least
    return orthogonalize(
        found,
        least,
        steps=config.whitening_steps,
        group_rows=config.whitening_rows,
    )


def _adam(
    room: Room,
    values: StackValues,
    block: Block,
    out: Tensor | None,
    newest: Tensor,
    root_factor: Tensor,
    root_offset: Tensor,
    slower: Sequence[Tensor],
) -> Tensor:
    """Return the momentum over the root of the second moment; see `_mixed`."""
    momentum = _mixed(values, block, out, newest, slower)
    # TINY is for the derivative at zero, where the momentum is zero, too.
    second = cut(values.second, block)
    if in_plain_eager():
        root = torch.sqrt(second, out=room.like(second))
    else:
        root = (second + TINY).sqrt()
    out_of_root = root if in_plain_eager() else None
    root = torch.addcmul(root_offset, root, root_factor, out=out_of_root)
    return torch.div(momentum, root, out=out)


def _mixed(
    values: StackValues,
    block: Block,
    out: Tensor | None,
    newest: Tensor,
    slower: Sequence[Tensor],
) -> Tensor:
    """Return the mixed momentum of some entries.

    Args:
        values: entries of a stack.
        block: which of them.
        out: what is written and returned; None for a new tensor.
        newest: share of the gradient, `[matrix, 1, 1]`.
        slower: share of each slower momentum and what makes up for its age, likewise.
    """
    momentum = cut(values.momenta[0], block)
    for place, (share, factor) in enumerate(
        zip(slower[::2], slower[1::2], strict=True), start=1
    ):
        is_free = place == 1  # later, what was mixed so far lies there
        slow = torch.mul(
            cut(values.momenta[place], block), factor, out=out if is_free else None
        )
        momentum = torch.lerp(momentum, slow, share, out=out)
    return torch.lerp(momentum, cut(values.grad, block), newest, out=out)
