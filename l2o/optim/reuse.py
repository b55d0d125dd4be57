"""A network's numbers, used for several steps: `structure_every`.

The network is nearly the whole cost of a step. What it says about an entry, how much of
each direction to take, changes slowly; the directions themselves change with every
gradient. So the network runs every k-th step, its outputs are kept in bfloat16, and in
between the update head mixes fresh directions by them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from l2o.graph import NeuralGraph

from .config import NominalHeadConfig
from .directions import Values, ages_of, directions_of
from .head import apply_head, num_outputs
from .rule import AbstractRule, Params, Rule
from .state import State
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
            the records of all.
        every: steps from one run of the network to the next.
    """
    assert isinstance(rule, Rule)
    if any(_is_due(item, every) for item in state.values()):
        updates, outputs = rule.propose(graph, params, grads, state)
        for name, value in outputs.items():
            # What is not finite makes no update either: the step will be skipped.
            state[name][OUTPUTS] = value.nan_to_num(0.0, 0.0, 0.0)
        return updates
    return _mixed_anew(rule, graph, params, grads, state)


def _is_due(item: Mapping[str, Tensor], every: int) -> bool:
    if OUTPUTS not in item:
        return True
    return int(item["step"]) % every == 1


def _mixed_anew(
    rule: Rule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
) -> Params:
    """Return updates in which kept outputs mix this step's directions."""
    white = whiten_momenta(graph, grads, state)
    updates = {}
    for name, param in params.items():
        item = state[name]
        rows = [param, grads[name], *item["momenta"], item["second_moment"]]
        if name in white:
            rows.append(white.pop(name))
        kept = item[OUTPUTS].flatten(1)
        ages = ages_of(item["step"].to(param.dtype))[:, None]
        update = torch.empty_like(param, memory_format=torch.contiguous_format)
        flat = [row.flatten() for row in rows]
        for start in range(0, param.numel(), _PIECE_ENTRIES):
            piece = slice(start, start + _PIECE_ENTRIES)
            main = torch.stack([row[piece].to(param.dtype) for row in flat[:7]])
            second = flat[7][piece].to(param.dtype)
            values = Values(main, second, ages)
            directions = directions_of(values, flat[8][piece] if flat[8:] else None)
            outputs = kept[:, piece].to(param.dtype).movedim(0, -1)
            new = apply_head(rule.config.head, outputs, directions)
            update.view(-1)[piece] = new
        updates[name] = update
    return updates
