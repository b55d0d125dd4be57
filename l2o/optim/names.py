"""Which tensors a rule reads, and what they are called."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def parameters_of(groups: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Return the parameters of all groups; at least one.

    Raises:
        ValueError: if there is none.
    """
    owned = [param for group in groups for param in group["params"]]
    if not owned:
        raise ValueError(
            "NeuralGraphOpt needs at least one parameter; got only empty groups. "
            "Did you pass a generator that was already used?"
        )
    return owned


def have_names(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether every parameter came with a name of its own."""
    names = _given_names(groups)
    return bool(names) and len(set(names)) == len(names)


def name_tensors(
    groups: Sequence[dict[str, Any]],
    model: nn.Module | None,
    owner: nn.Module | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return every tensor that the rule reads; empty ones have nothing to read.

    Args:
        groups: the optimizer's.
        model: who else's parameters are read, and under its names; None means the
            groups' own, by the names that came with them, or else by their owner's, or
            else by their places.
        owner: a module that gives its names only.
        known: names given before, which stay.

    Raises:
        ValueError: if the model does not own the groups' parameters.
    """
    owned = parameters_of(groups)
    if model is not None:
        named = dict(model.named_parameters())
        ids = {id(param) for param in named.values()}
        strangers = sum(id(param) not in ids for param in owned)
        if strangers:
            raise ValueError(
                "NeuralGraphOpt needs parameters of the given model; got "
                f"{strangers} of {len(owned)} that it does not own. Pass the model "
                "whose parameters these are, or leave `model` out."
            )
    elif have_names(groups):
        named = dict(zip(_given_names(groups), owned, strict=True))
    else:
        names = {id(tensor): name for name, tensor in (known or {}).items()}
        if owner is not None:
            own = owner.named_parameters()
            names |= {id(tensor): name for name, tensor in own}
        places = {id(param): str(index) for index, param in enumerate(owned)}
        if names:
            places = {key: f"added.{place}" for key, place in places.items()}
        named = {names.get(id(p), places[id(p)]): p for p in owned}
    return {name: tensor for name, tensor in named.items() if tensor.numel()}


def _given_names(groups: Sequence[dict[str, Any]]) -> list[str]:
    return [name for group in groups for name in group.get("param_names", ())]
