"""Activations of a module's neurons on probes, found by running the module."""

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2o.graph import NeuralGraph, WeightBlock

_LAST = (
    *(nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding),
    *(nn.MultiheadAttention, nn.RNNBase),
)
"""Modules that read channels on the last axis; all others do on the second."""

Place: TypeAlias = tuple[str, bool, WeightBlock]
"""A module, whether the neurons are what it reads and not what it returns, and the
block of its parameter that joins them."""


class ModuleValues:
    """Runs trained networks on probes through the modules they are parameters of.

    The values of hidden neurons are what the next module with parameters reads, after
    norm, activation and pooling; if none does (the branch of a residual sum), they are
    what the module returns that they belong to. At several positions they are averaged.
    Batch norms run with the statistics that `stack_networks` has folded into their
    weights. Autograd passes through to the probes and the parameters.

    Args:
        *pairs: each architecture's graph, and a module that has it.

    Raises:
        ValueError: if no module has the neurons of a group as a whole: inside
            attention, or where only a part is read.

    Example:
        >>> import l2o
        >>> from l2o.companion import NetworkClassifier, infer_config, stack_networks
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        >>> model = model.append(nn.Linear(4 * 36, 2))
        >>> graph = l2o.neural_graph(model, torch.zeros(1, 3, 8, 8))
        >>> config = infer_config(graph, width=8, num_probes=5, probe_shape=(8, 8))
        >>> evaluate = ModuleValues((graph, model))
        >>> reader = NetworkClassifier(config, num_classes=3, evaluate=evaluate)
        >>> params = {n: w.detach()[None] for n, w in model.named_parameters()}
        >>> reader(stack_networks(graph, params)).shape
        torch.Size([1, 3])
    """

    def __init__(self, *pairs: tuple[NeuralGraph, nn.Module]) -> None:
        self._known = {id(graph): (graph, _Runner(graph, m)) for graph, m in pairs}

    def __call__(
        self, graph: NeuralGraph, params: Mapping[str, Tensor], points: Tensor
    ) -> list[Tensor]:
        """Return the values of each group, `[network, point, neuron]`.

        Args:
            graph: the architecture.
            params: name to `[network, *shape]`.
            points: `[point, input, *position]`.

        Raises:
            ValueError: if the graph is another than those given.
        """
        runner = self._known.get(id(graph), (graph, None))[1] or next(
            (own for known, own in self._known.values() if known == graph), None
        )
        if runner is None:
            raise ValueError(
                f"ModuleValues knows the modules of {len(self._known)} graphs; got "
                "another graph. Pass each graph with its module."
            )
        run = torch.func.vmap(runner, in_dims=(0, None), randomness="same")
        return list(run(dict(params), points))


class _Runner:
    """One network on all points."""

    def __init__(self, graph: NeuralGraph, model: nn.Module) -> None:
        self.groups = graph.groups
        self.model = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.places = _places(graph, self.model)
        self.buffers = {
            f"{name}.{kept}".lstrip("."): torch.full_like(value, neutral)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for kept, value, neutral in (
                ("running_mean", module.running_mean, 0.0),
                ("running_var", module.running_var, 1 - module.eps),
            )
            if value is not None
        }

    def __call__(self, params: dict[str, Tensor], points: Tensor) -> tuple[Tensor, ...]:
        modules = dict(self.model.named_modules())
        seen: dict[tuple[str, bool], Tensor] = {}
        hooks = []
        for name in {name for name, _, _ in self.places.values()}:

            def keep(
                module: nn.Module, args: tuple[Any, ...], output: Any, name: str = name
            ) -> None:
                seen.setdefault((name, True), args[0])
                seen.setdefault((name, False), output)

            hooks.append(modules[name].register_forward_hook(keep))
        try:
            like = next(iter(params.values()))
            buffers = {name: value.to(like) for name, value in self.buffers.items()}
            output = functional_call(self.model, {**params, **buffers}, (points,))
        finally:
            for hook in hooks:
                hook.remove()
        found = []
        for number, group in enumerate(self.groups):
            if group.role == "input":
                found.append(_average(points, 1))
            elif group.role == "output":
                axis = 1 if output.shape[1] == group.size else -1
                found.append(_average(output, axis))
            else:
                place = self.places[number]
                found.append(_seen(seen, place, modules[place[0]]))
        return tuple(found)


def _places(graph: NeuralGraph, model: nn.Module) -> dict[int, Place]:
    """Return where the values of each hidden group are seen as a whole."""
    modules = dict(model.named_modules())
    owners: dict[str, list[WeightBlock]] = {}
    for block in graph.blocks:
        owners.setdefault(block.parameter, []).append(block)
    found: dict[int, Place] = {}
    for reads in (True, False):
        for blocks in owners.values():
            (block, *others) = blocks
            module = block.parameter.rpartition(".")[0]
            end = block.source if reads else block.target
            is_whole = tuple(end.index) == tuple(range(graph.groups[end.group].size))
            if module in modules and is_whole and not others:
                found.setdefault(end.group, (module, reads, block))
    lost = [
        group.name
        for number, group in enumerate(graph.groups)
        if group.role not in ("input", "output") and number not in found
    ]
    if lost or [group.role for group in graph.groups].count("output") != 1:
        raise ValueError(
            "ModuleValues needs hidden neurons that a module has as a whole, and "
            f"one group of outputs; got {lost or 'several groups of outputs'}. Read "
            "the networks with num_probes=0, or pass an evaluate of your own."
        )
    return found


def _seen(
    seen: Mapping[tuple[str, bool], Tensor], place: Place, module: nn.Module
) -> Tensor:
    """Return the values at a place, `[point, neuron]`."""
    name, reads, block = place
    if (name, reads) not in seen:
        raise ValueError(
            f"ModuleValues needs modules that are called; got {name!r}, whose "
            "parameters are used without. Read the networks with num_probes=0."
        )
    values = seen[name, reads]
    size = len(block.source if reads else block.target)
    if not isinstance(module, _LAST):
        return _average(values, 1)
    if values.shape[-1] != size:  # a flattened map, channel by channel or not
        strides = block.view.strides
        shape = (size, -1) if strides[2] > strides[-1] else (-1, size)
        values = values.unflatten(-1, shape)
        return _average(values, -2 if shape[0] == size else -1)
    return _average(values, -1)


def _average(values: Tensor, axis: int) -> Tensor:
    """Return `[point, neuron]`: the mean over all axes but the first and this one."""
    return values.movedim(axis, 1).flatten(2).mean(2) if values.ndim > 2 else values
