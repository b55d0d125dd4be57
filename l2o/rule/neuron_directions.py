"""Directions of the neuron-level rule: whitened momenta of linear maps, else Adam's."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.graph.matrices import Stack
from l2o.nets.fast_ops import add, in_plain_eager, multiplied

from .neuron_config import NeuronRuleConfig
from .row_column import WHOLE, Block, Measured, StackValues, blocks_of
from .state import ADAM_EPS, TINY
from .whitening import orthogonalize

_FULL_SIGNAL = 5.0
"""How many times the signal floor a momentum's size must be for its small singular
values to be pushed as far as they go."""

_LEAST_FLOOR = 1e-12
"""In place of a signal floor of zero, so that nothing is divided by zero."""


_ADAM_ENTRIES = 2**20
"""Entries whose Adam direction is computed at a time on a CPU, to save memory."""


class Directions(NamedTuple):
    """Directions before they are scaled."""

    stacks: list[Tensor]
    """Of each stack, `[matrix, row, column]`."""
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
    *averages, second = clock.ages[1:].unbind()
    # Where gradients have ended, slower averages would move for long.
    moving = statistics.logs[2] - statistics.logs[-1]
    moving = moving[statistics.num_lines :].exp()
    lasting = (moving / (config.signal_floor + TINY)).clamp(max=1)
    newest = config.look_ahead * wired.is_map
    newest = torch.lerp(newest, wired.one, shares[:, 0])
    age = torch.lerp(averages[0], wired.one, newest)
    size = age * statistics.logs[-1, statistics.num_lines :].exp()
    lowest = max(config.signal_floor, _LEAST_FLOOR)
    whole = size * wired.roots
    least = _FULL_SIGNAL * lowest * whole
    columns = [newest, age * second.rsqrt(), ADAM_EPS * age, size, least]
    for place in range(1, len(averages)):
        columns += [shares[:, place] * lasting, averages[0] / averages[place]]
    table = torch.stack(columns)[:, :, None, None]
    stacks, norms = [], []
    for stack, item in zip(wired.stacks.stacks, values, strict=True):
        own = table[:, stack.matrices].to(item.grad.dtype).unbind()
        if not stack.is_owned:  # its owner is in another stack
            stacks.append(item.grad)
            norms.append(own[4])
            continue
        direction, norm = _direction(config, stack, item, *own)
        stacks.append(direction)
        norms.append(norm)
    norms = torch.cat([*norms, table[4:5, -1]]).flatten()
    signal = (norms.to(whole.dtype) / whole).clamp(TINY, lowest).log()
    gradient, momentum = statistics.logs[1:3, statistics.num_lines :].unbind()
    least = math.log(config.fresh_floor + TINY)
    fresh = (gradient - momentum).clamp(max=least)
    signal = torch.add(signal, fresh) - (math.log(lowest) + least)
    is_whitened = wired.is_map
    if config.map_direction != "whitened":
        is_whitened = torch.zeros_like(is_whitened)
    return Directions(stacks, is_whitened * signal, is_whitened)


def _direction(
    config: NeuronRuleConfig,
    stack: Stack,
    values: StackValues,
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
    if not stack.is_map or config.map_direction == "adam":
        adam = _adam(values, newest, root_factor, root_offset, slower)
        return adam, least
    momentum = _momentum(values, newest, slower)
    if config.map_direction == "momentum":
        return momentum / size, least
    return orthogonalize(
        momentum,
        least,
        steps=config.whitening_steps,
        group_rows=config.whitening_rows,
    )


def _adam(
    values: StackValues,
    newest: Tensor,
    root_factor: Tensor,
    root_offset: Tensor,
    slower: Sequence[Tensor],
) -> Tensor:
    """Return the momentum over the root of the second moment; see `_direction`."""
    blocks = blocks_of(values.grad, _ADAM_ENTRIES)
    found = torch.empty_like(values.grad) if len(blocks) > 1 else None
    parts = []
    for block in blocks:
        momentum = _momentum(values, newest, slower, block)
        # TINY is for the derivative at zero, where the momentum is zero, too.
        second = values.second[block]
        root = (second if in_plain_eager() else second + TINY).sqrt()
        root = add(multiplied(root, root_factor), root_offset)
        out = _over(momentum) if found is None else found[block]
        parts.append(torch.div(momentum, root, out=out))
    return parts[0] if found is None else found


def _momentum(
    values: StackValues,
    newest: Tensor,
    slower: Sequence[Tensor],
    block: Block = WHOLE,
) -> Tensor:
    """Return the mixed momentum, a new tensor in plain eager mode.

    Args:
        values: entries of a stack.
        newest: share of the gradient, `[matrix, 1, 1]`.
        slower: share of each slower momentum and what makes up for its age, likewise.
        block: which entries.
    """
    momentum = values.momenta[0][block]
    for place, (share, factor) in enumerate(
        zip(slower[::2], slower[1::2], strict=True), start=1
    ):
        slow = values.momenta[place][block] * factor
        momentum = torch.lerp(momentum, slow, share, out=_over(slow))
    out = _over(momentum) if slower else None
    return torch.lerp(momentum, values.grad[block], newest, out=out)


def _over(values: Tensor) -> Tensor | None:
    """Return the tensor itself if it may be overwritten, else None."""
    return values if in_plain_eager() else None
