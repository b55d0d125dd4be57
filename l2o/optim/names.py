"""Which tensors a rule reads, and what they are called."""

from collections.abc import Mapping, Sequence
from types import GeneratorType
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


def names_in(params: object) -> dict[int, str]:
    """Return `id` of each tensor to its name, as far as the argument `params` tells.

    The generator of `nn.Module.parameters` still holds its module and so its names.
    Groups and `filter` objects are looked into; the generator is not advanced.

    Returns:
        The names; empty if there are none, or those of several modules.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> list(names_in(model.parameters()).values())
        ['weight', 'bias']
        >>> names_in(list(model.parameters()))
        {}
    """
    owner = _owner_of(params)
    named = () if owner is None else owner.named_parameters()
    return {id(tensor): name for name, tensor in named}


_SOURCES = tuple(
    method.__code__ for method in (nn.Module.parameters, nn.Module.named_parameters)
)


def _owner_of(params: object) -> nn.Module | None:
    """Return the module whose `parameters()` this is; None if there is not just one."""
    if isinstance(params, filter):
        params = params.__reduce__()[1][1]
    if isinstance(params, dict):
        return _owner_of(params.get("params"))
    if isinstance(params, GeneratorType):
        if params.gi_code not in _SOURCES or params.gi_frame is None:
            return None
        return params.gi_frame.f_locals["self"]
    if isinstance(params, list | tuple) and all(isinstance(g, dict) for g in params):
        owners = {id(owner): owner for owner in map(_owner_of, params)}
        return next(iter(owners.values())) if len(owners) == 1 else None
    return None


def name_tensors(
    groups: Sequence[dict[str, Any]],
    model: nn.Module | None,
    names: Mapping[int, str],
    known: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return every tensor that the rule reads; empty ones have nothing to read.

    Args:
        groups: the optimizer's.
        model: module whose other parameters are read too, under its names; None means
            the groups' own, by the names that came with them, or else by `names`, or
            else by their places.
        names: `id` of a tensor to its name.
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
        names = {**names, **{id(t): name for name, t in (known or {}).items()}}
        places = [
            f"added.{place}" if names else f"{place}" for place in range(len(owned))
        ]
        named = {}
        for place, param in zip(places, owned, strict=True):
            name = names.get(id(param), place)
            named[place if name in named else name] = param
    return {name: tensor for name, tensor in named.items() if tensor.numel()}


def is_place(name: str) -> bool:
    """Whether `name_tensors` made this name from a parameter's place."""
    return name.removeprefix("added.").isdigit()


def _given_names(groups: Sequence[dict[str, Any]]) -> list[str]:
    return [name for group in groups for name in group.get("param_names", ())]
