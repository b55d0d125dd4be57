"""Running statistics of batch norms, read as part of the norms' weights and biases."""

from collections.abc import Mapping

from torch import Tensor

from l2o.graph import NeuralGraph

_KEPT = (".running_mean", ".running_var", ".num_batches_tracked")


def fold_running_statistics(
    graph: NeuralGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    r"""Return parameters in which batch norms do what they do in evaluation.

    .. math:: w' = w / \\sqrt{v + \\epsilon}, \\quad b' = b - w' m

    with running mean m and variance v: a norm with the new weight and bias, mean 0 and
    variance 1 computes the same.

    Args:
        graph: the architecture.
        tensors: name to `[*lead, *shape]`, with `running_mean` and `running_var` of the
            batch norms under the names that `state_dict()` gives them.

    Returns:
        The parameters of the graph alone.

    Raises:
        ValueError: if the statistics of a norm are missing, or it has no weight.
    """
    found = {name: value for name, value in tensors.items() if name in graph.shapes}
    for number, group in enumerate(graph.groups):
        norms = [call for call in group.operations if "batch_norm" in call.name]
        if not norms:
            continue
        epsilon = float(dict(norms[0].settings).get("eps", 1e-5))
        scales = [name for name in _scales(graph, number) if _statistics(name, tensors)]
        if len(scales) < len(norms):
            raise ValueError(
                "stack_networks reads a batch norm's running statistics as part of its "
                f"weight; got none for the norm after {group.name!r}. Pass state dicts "
                "instead of named parameters, use BatchNorm(affine=True), or pass "
                "running_statistics=False for norms that keep none."
            )
        for name in scales:
            prefix = name.removesuffix(".weight")
            mean, variance = (tensors[prefix + kept] for kept in _KEPT[:2])
            found[name] = found[name] / (variance + epsilon).sqrt()
            if f"{prefix}.bias" in found:
                shift = found[name] * mean
                found[f"{prefix}.bias"] = found[f"{prefix}.bias"] - shift
    return found


def _scales(graph: NeuralGraph, group: int) -> list[str]:
    """Return the vectors that the neurons of a group are multiplied by."""
    blocks = [block for block in graph.blocks if block.source.group == group]
    return [
        block.parameter
        for block in blocks
        if block.operation is not None and block.operation.name == "mul"
    ]


def _statistics(weight: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the running statistics that go with a weight are there."""
    prefix = weight.removesuffix(".weight")
    return all(prefix + kept in tensors for kept in _KEPT[:2])


def is_running_statistic(name: str) -> bool:
    """Whether a name of a state dict is one of a norm's running statistics."""
    return name.endswith(_KEPT)
