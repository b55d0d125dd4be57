"""A network's numbers, used for several steps: `structure_every`.

The network is nearly the whole cost of a step. What it says about an entry, how much of
each direction to take, changes slowly; the directions themselves change with every
gradient. So the network runs every k-th step, its outputs are kept in bfloat16, and in
between the update head mixes fresh directions by them.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from l2o.graph import NeuralGraph
from l2o.nets.thread_map import thread_map

from .config import NominalHeadConfig
from .directions import Values, ages_of, directions_of
from .head import apply_head, num_outputs, update_units
from .rule import AbstractRule, Params, Rule
from .state import ParameterState, State
from .whitening import whiten_momenta

OUTPUTS = "outputs"
"""Where a parameter's state keeps them, `[output, *shape]` in bfloat16."""

_PIECE_ENTRIES = 2**16
"""Entries that are computed at a time, so that they fit in a cache."""


def check_structure_every(every: int, rule: AbstractRule, *, is_compiled: bool) -> None:
    """Raise ValueError if a rule cannot run every so many steps."""
    if every < 1:
        raise ValueError(
            "NeuralGraphOpt structure_every must be a whole number from 1; got "
            f"structure_every={every}. 1 runs the network in every step."
        )
    if every == 1:
        return
    if not isinstance(rule, Rule) or not isinstance(
        rule.config.head, NominalHeadConfig
    ):
        raise ValueError(
            "NeuralGraphOpt structure_every above 1 needs a rule whose head mixes "
            f"directions (NominalHeadConfig); got structure_every={every} with another "
            "rule. Leave structure_every out."
        )
    if is_compiled:
        raise ValueError(
            "NeuralGraphOpt structure_every above 1 needs compile=False: which step "
            f"runs the network is decided anew each time; got structure_every={every} "
            "and compile=True. Choose one of the two."
        )


def outputs_template(rule: AbstractRule, param: Tensor) -> Tensor:
    """Return a tensor like a parameter's kept outputs, values aside."""
    assert isinstance(rule, Rule)
    count = num_outputs(rule.config.head)
    return param.new_empty(count, *param.shape, dtype=torch.bfloat16)


def updates_by_turns(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    moving: Collection[str],
    every: int,
) -> Params:
    """Return updates, from the network or from what it said some steps ago.

    The network runs where a parameter with a gradient has no outputs yet or has seen
    `every` gradients since the last that was due. Asks the device for the number of
    steps.

    Args:
        rule: a `Rule` with the nominal head.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for every parameter of the graph; zeros where there is
            none.
        state: of every parameter, these gradients included. New outputs are put into
            the records of those that move.
        moving: names of the parameters with a gradient.
        every: steps from one run of the network to the next.

    Returns:
        Updates of the moving parameters.
    """
    assert isinstance(rule, Rule)
    if not _is_due([state[name] for name in moving], every):
        return _mixed_anew(rule, graph, params, grads, state, moving)
    updates, outputs = rule.propose(graph, params, grads, state)
    for name in moving:
        # What is not finite makes no update either: the step will be skipped.
        state[name][OUTPUTS] = outputs[name].nan_to_num(0.0, 0.0, 0.0)
    return {name: updates[name] for name in moving}


def _is_due(items: list[ParameterState], every: int) -> bool:
    """Whether the network is to run; the device is asked once for all parameters."""
    if any(OUTPUTS not in item for item in items):
        return True
    steps = torch.stack([item["step"] for item in items])
    return bool((steps % every == 1).any())


def _mixed_anew(
    rule: Rule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    moving: Collection[str],
) -> Params:
    """Return updates in which kept outputs mix this step's directions."""
    head, units = rule.config.head, update_units(rule.config.head, graph)
    white = whiten_momenta(graph, grads, state, rule.config.whitening_rows)
    rows = {name: _rows(params[name], grads[name], state[name]) for name in moving}
    updates = {
        name: torch.empty_like(params[name], memory_format=torch.contiguous_format)
        for name in moving
    }

    def mix(place: tuple[str, slice]) -> None:
        name, piece = place
        item, update = state[name], updates[name].view(-1)
        *seven, second = rows[name]
        main = torch.stack([row[piece].to(update.dtype) for row in seven])
        ages = ages_of(item["step"].to(update.dtype))[:, None]
        values = Values(main, second[piece].to(update.dtype), ages)
        last = white[name].flatten()[piece] if name in white else None
        directions = directions_of(values, last)
        kept = item[OUTPUTS].flatten(1)[:, piece].to(update.dtype, copy=True)
        kept = kept.movedim(0, -1)
        update[piece] = apply_head(head, kept, directions, units[name])

    places = [
        (name, slice(start, start + _PIECE_ENTRIES))
        for name in moving
        for start in range(0, params[name].numel(), _PIECE_ENTRIES)
    ]
    if places:
        thread_map(mix, places, updates[places[0][0]].device)
    return updates


def _rows(param: Tensor, grad: Tensor, item: Mapping[str, Tensor]) -> list[Tensor]:
    """Return weight, gradient, five momenta and second moment, each `[entry]`."""
    found = [param, grad, *item["momenta"], item["second_moment"]]
    return [row.flatten() for row in found]
