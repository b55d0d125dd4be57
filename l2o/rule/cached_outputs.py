"""The network's outputs, used for several steps: `structure_every`.

The network is nearly the whole cost of a step. Its outputs for an entry, how much of
each direction to take, change slowly; the directions themselves change with every
gradient. So the network runs every k-th step, its outputs are kept in bfloat16, and in
between the head mixes fresh directions by them.
"""

import torch
from torch import Tensor

from l2o.graph import NeuralGraph

from .rule import AbstractRule, Params, ReusesOutputs
from .state import ParameterState, Reading, State, Tensors

OUTPUTS = "outputs"
"""Where a parameter's state keeps them, `[output, *shape]` in bfloat16."""


def check_structure_every(every: int, rule: AbstractRule, *, is_compiled: bool) -> None:
    """Raise ValueError if a rule cannot run in every k-th step only."""
    if every < 1:
        raise ValueError(
            "NeuralGraphOpt structure_every must be a whole number from 1; got "
            f"structure_every={every}. 1 runs the network in every step."
        )
    if every == 1:
        return
    if not num_reusable_outputs(rule):
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


def num_reusable_outputs(rule: AbstractRule) -> int:
    """Return how many outputs per entry a rule can use again; 0 for none."""
    return rule.num_reusable_outputs if isinstance(rule, ReusesOutputs) else 0


def outputs_template(rule: AbstractRule, param: Tensor) -> Tensor:
    """Return a tensor like a parameter's kept outputs, without values."""
    count = num_reusable_outputs(rule)
    return param.new_empty(count, *param.shape, dtype=torch.bfloat16)


def updates_with_cache(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Tensors,
    grads: Tensors,
    state: State,
    *,
    moving: Tensors,
    every: int,
) -> Params:
    """Return updates from the network, or from its outputs of some steps ago.

    The network runs where a parameter with a gradient has no outputs yet or has seen
    `every` gradients since the last time. Asks the device for the number of steps.

    Args:
        rule: one that `check_structure_every` accepts.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for every parameter of the graph; zeros where there is
            none.
        state: of every parameter, these gradients included. New outputs are put into
            the records of those that move.
        moving: the parameters with a gradient, by name.
        every: steps from one run of the network to the next.

    Returns:
        Updates of the moving parameters.
    """
    assert isinstance(rule, ReusesOutputs)
    reading = Reading(graph, params, grads, state)
    items = {name: state[name] for name in moving}
    if not _is_due(list(items.values()), every):
        kept = {name: item[OUTPUTS] for name, item in items.items()}
        return rule.mix(reading, kept)
    updates, outputs = rule.propose(reading)
    for name, item in items.items():
        # Outputs that are not finite make no update: the step will be skipped, and
        # later ones continue with the last finite ones.
        new = outputs[name]
        last = item.get(OUTPUTS, torch.zeros_like(new))
        item[OUTPUTS] = torch.where(new.isfinite(), new, last)
    return {name: updates[name] for name in moving}


def _is_due(items: list[ParameterState], every: int) -> bool:
    """Return whether the network runs now; asks the device once for all parameters."""
    if any(OUTPUTS not in item for item in items):
        return True
    steps = torch.stack([item["step"] for item in items])
    return bool((steps % every == 1).any())
