"""Trained networks with their test accuracies, ready for a predictor."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from l2o.companion import NetworkSet, concatenate_sets, layered_graph, stack_networks
from l2o.graph import NeuralGraph
from optimizees.zoo.published_park import is_published_park, read_published_park
from optimizees.zoo.small_cnn_zoo import read_small_cnn_zoo
from optimizees.zoo.wild_cnn import WildArchitecture, parameter_shapes
from optimizees.zoo.wild_park import Split, describe_park, read_park

PopulationName: TypeAlias = Literal["park", "zoo"]


_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Trained networks, split for learning, choosing and testing."""

    name: PopulationName
    """Whether their architectures differ."""
    train: NetworkSet
    """What a predictor learns from; targets are accuracies in [0, 1]. A stack is what
    has one architecture, and in a park one run."""
    validation: NetworkSet
    """What decides which epoch counts."""
    test: NetworkSet
    """What the result is measured on, once."""
    facts: dict[str, Any]
    """What the networks are, as JSON values that go into every row."""

    def to(self, device: torch.device) -> "Population":
        """Return the networks and their targets on a device."""
        sets = {split: getattr(self, split).to(device) for split in _SPLITS}
        return replace(self, **sets)


def load_population(
    name: PopulationName,
    directory: Path,
    *,
    checkpoints_per_run: int | None = None,
    order: Path | None = None,
) -> Population:
    """Read a park or a zoo.

    Args:
        name: which of the two lies in the directory.
        directory: where `l2o data wild-park` or `l2o data cnn-zoo` put it, or a
            published one was unpacked.
        checkpoints_per_run: of each *training* run of a park, this many checkpoints,
            evenly spread and the last among them; None takes all. Validation and test
            always have all.
        order: the released order of a published zoo, which decides its splits.

    Returns:
        The networks with their graphs. Networks whose training diverged, so that a
        weight is infinite or no number, are left out; the facts say how many.

    Raises:
        FileNotFoundError: if nothing lies there.
        ValueError: if a split is empty.
    """
    if order is not None and name != "zoo":
        raise ValueError(
            f"an order is of a published zoo; got order={order} for the park. Leave it "
            "out."
        )
    read = (
        partial(_read_zoo, order)
        if name == "zoo"
        else partial(_read_park, checkpoints_per_run)
    )
    read_in = {split: tuple(read(directory, split)) for split in _SPLITS}
    found = {split: _finite(groups) for split, groups in read_in.items()}
    for split, groups in found.items():
        if not groups:
            raise ValueError(
                f"a population needs networks in every split; got none for {split} in "
                f"{directory}. Let `l2o data {_COMMANDS[name]}` finish."
            )
    facts: dict[str, Any] = {"checkpoints_per_run": checkpoints_per_run}
    if order is not None:
        facts["order"] = order.name
    for split, groups in found.items():
        accuracies = torch.cat([group.targets for group in groups])
        facts[split] = {
            "runs": len(groups) if name == "park" else len(accuracies),
            "networks": len(accuracies),
            "diverged": sum(map(len, read_in[split])) - len(accuracies),
            "accuracy_quantiles": [
                round(value, 4)
                for value in accuracies.quantile(
                    torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
                ).tolist()
            ],
        }
    facts["made"] = _description(name, directory)
    sets = {split: concatenate_sets(groups) for split, groups in found.items()}
    return Population(name=name, **sets, facts=facts)


def park_graph(architecture: WildArchitecture) -> NeuralGraph:
    """Return the graph of a network of the park, with activations and skips."""
    return layered_graph(
        parameter_shapes(architecture),
        activations=[layer.activation for layer in architecture.layers],
        skips=[layer.skip for layer in architecture.layers],
    )


def _read_park(
    checkpoints_per_run: int | None, directory: Path, split: Split
) -> Iterator[NetworkSet]:
    read = read_published_park if is_published_park(directory) else read_park
    for run in read(directory, split):
        batch = stack_networks(park_graph(run.architecture), run.parameters)
        everything = NetworkSet(batch, run.accuracies)
        if split != "train" or checkpoints_per_run is None:
            yield everything
            continue
        last = len(run) - 1
        rows = torch.linspace(last, 0, min(checkpoints_per_run, len(run)))
        yield everything[rows.round().long()]


def _read_zoo(
    order: Path | None, directory: Path, split: Split
) -> Iterator[NetworkSet]:
    networks = read_small_cnn_zoo(directory, split, order=order)
    shapes = {
        name: tuple(value.shape[1:]) for name, value in networks.parameters.items()
    }
    batch = stack_networks(layered_graph(shapes), networks.parameters)
    yield NetworkSet(batch, networks.accuracies)


def _finite(groups: Sequence[NetworkSet]) -> tuple[NetworkSet, ...]:
    """Return the networks all of whose weights are numbers."""
    kept = []
    for group in groups:
        values = [value.flatten(1) for value in group.networks.params.values()]
        is_finite = torch.cat(values, 1).isfinite().all(dim=1)
        if is_finite.all():
            kept.append(group)
        elif is_finite.any():
            kept.append(group[is_finite])
    return tuple(kept)


_COMMANDS: dict[PopulationName, str] = {"park": "wild-park", "zoo": "cnn-zoo"}


def _description(name: PopulationName, directory: Path) -> dict[str, Any]:
    """Return how the population was made; a published one does not say."""
    if name == "park" and not is_published_park(directory):
        return describe_park(directory)
    path = directory / "zoo.json"
    return json.loads(path.read_text()) if path.is_file() else {"source": "published"}
