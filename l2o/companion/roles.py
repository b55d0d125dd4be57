"""What tells neurons of a trained network apart: number, layer, activation."""

import torch
from torch import Tensor

from l2o.graph import NeuralGraph, NeuronGroup, Operation, derived

from .architecture import ACTIVATIONS
from .config import InputsConfig


def layer_rows(graph: NeuralGraph, config: InputsConfig) -> list[int]:
    """Return for each group its row in tables by layer.

    Inputs have row 0, hidden layers follow, outputs have the last row, whatever the
    depth.

    Raises:
        ValueError: if the network has more hidden layers than `config` has rows.
    """
    rows, hidden = [], 0
    for group in graph.groups:
        match group.role:
            case "input":
                rows.append(0)
            case "output":
                rows.append(config.num_hidden + 1)
            case _:
                hidden += 1
                rows.append(hidden)
    if hidden > config.num_hidden:
        raise ValueError(
            f"InputsConfig(num_hidden={config.num_hidden}) reads networks of at most "
            f"that many hidden layers; got one of {hidden}. Raise num_hidden."
        )
    return rows


@derived
def position_rows(graph: NeuralGraph, config: InputsConfig) -> Tensor:
    """Return for each neuron its row in the table of positions.

    Each input has a row, then each hidden layer, then each output. So output k means
    the same in networks of any depth.

    Raises:
        ValueError: if the network has more inputs, hidden layers or outputs than
            `config` has rows.
    """
    rows, count = [], {"input": 0, "output": 0}
    first = {"input": 0, "output": config.num_inputs + config.num_hidden}
    layers = layer_rows(graph, config)
    for group, layer in zip(graph.groups, layers, strict=True):
        if group.role in ("input", "output"):
            start = first[group.role] + count[group.role]
            rows.append(torch.arange(start, start + group.size))
            count[group.role] += group.size
        else:
            rows.append(torch.full((group.size,), config.num_inputs + layer - 1))
    wanted = config.num_inputs, config.num_outputs
    if count["input"] > wanted[0] or count["output"] > wanted[1]:
        raise ValueError(
            f"InputsConfig reads networks of at most {wanted[0]} inputs and "
            f"{wanted[1]} outputs; got one of {count['input']} and "
            f"{count['output']}. Raise num_inputs or num_outputs."
        )
    return torch.cat(rows)


@derived
def activation_rows(graph: NeuralGraph, config: InputsConfig) -> Tensor:
    """Return for each neuron its row in the table of activations, one past for none.

    Hidden neurons without an activation count as "none"; inputs and outputs have no
    row.

    Raises:
        ValueError: if the network has an activation that `config` does not list, or
            hidden neurons with several.
    """
    names = config.activations
    rows = []
    for group in graph.groups:
        is_hidden = group.role == "hidden"
        name = activation_of(group) if is_hidden else "none"
        if is_hidden and name not in names:
            raise ValueError(
                f"InputsConfig(activations={names}) reads networks with these "
                f"activations; got one with {name!r} in {group.name!r}. "
                + (
                    "Add it to the list."
                    if name in ACTIVATIONS
                    else f"There are embeddings for {ACTIVATIONS}; read the network "
                    "without any, by activations=()."
                )
            )
        row = names.index(name) if is_hidden else len(names)
        rows.append(torch.full((group.size,), row))
    return torch.cat(rows)


def activation_of(group: NeuronGroup) -> str:
    """Return the activation of hidden neurons: its name, "none", or several by "+"."""
    found = dict.fromkeys(map(_activation, group.operations))
    return "+".join(name for name in found if name) or "none"


def _activation(call: Operation) -> str | None:
    """Return the name of an activation; None for a call that is none."""
    settings = dict(call.settings)
    match call.name:
        case "elu" if float(settings.get("scale", 1.0)) != 1.0:
            return "selu"
        case "hardtanh" if settings.get("max_val") == 6.0:
            return "relu6"
        case "prelu" | "_prelu_kernel":
            return "prelu"
        case "log_sigmoid_forward":
            return "log_sigmoid"
    if call.name in ACTIVATIONS:
        return None if call.name == "none" else call.name
    is_unnamed = call.name not in _NO_ACTIVATIONS and _is_pointwise(call.name)
    return call.name if is_unnamed else None


_NO_ACTIVATIONS = {
    *("add", "sub", "rsub", "mul", "div", "neg", "positive", "clone", "copy"),
    *("_to_copy", "to", "where", "masked_fill", "native_dropout", "lerp", "addcmul"),
}
"""Pointwise operators that are linear, or depend on their other operand."""


def _is_pointwise(name: str) -> bool:
    """Whether torch has a pointwise operator of this name."""
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags
        for overload in packet.overloads()
    )
