"""Trained networks with their test accuracies, ready for a predictor."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.companion import NetworkBatch, NetworkStack, layered_graph
from l2o.graph import NeuralGraph
from optimizees.zoo.small_cnn_zoo import read_small_cnn_zoo
from optimizees.zoo.wild_cnn import WildArchitecture, parameter_shapes
from optimizees.zoo.wild_park import Split, describe_park, read_park

PopulationName: TypeAlias = Literal["park", "zoo"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Alike:
    """Networks of one architecture, and in a park of one run."""

    graph: NeuralGraph
    """Their architecture."""
    params: dict[str, Tensor]
    """Name to values, `[M, *shape]`."""
    accuracies: Float[Tensor, " M"]
    """Test accuracy of each, in [0, 1]."""

    def __len__(self) -> int:
        return len(self.accuracies)

    def at(self, rows: Tensor) -> "Alike":
        """Return some of the networks; copies."""
        params = {name: value[rows] for name, value in self.params.items()}
        return Alike(graph=self.graph, params=params, accuracies=self.accuracies[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Trained networks, split for learning, choosing and testing."""

    name: PopulationName
    """Whether their architectures differ."""
    train: tuple[Alike, ...]
    """What a predictor learns from."""
    validation: tuple[Alike, ...]
    """What decides which epoch counts."""
    test: tuple[Alike, ...]
    """What the result is measured on, once."""
    facts: dict[str, Any]
    """What the networks are, as JSON values that go into every row."""


def load_population(
    name: PopulationName, directory: Path, *, checkpoints_per_run: int | None = None
) -> Population:
    """Read a park or a zoo.

    Args:
        name: which of the two lies in the directory.
        directory: where `l2o data wild-park` or `l2o data cnn-zoo` put it.
        checkpoints_per_run: of each *training* run of a park, this many checkpoints,
            evenly spread and the last among them; None takes all. Validation and test
            always have all.

    Returns:
        The networks with their graphs. Networks whose training diverged, so that a
        weight is infinite or no number, are left out; the facts say how many.

    Raises:
        FileNotFoundError: if nothing lies there.
        ValueError: if a split is empty.
    """
    read = _read_zoo if name == "zoo" else partial(_read_park, checkpoints_per_run)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    read_in = {split: tuple(read(directory, split)) for split in splits}
    found = {split: _finite(groups) for split, groups in read_in.items()}
    for split, groups in found.items():
        if not groups:
            raise ValueError(
                f"a population needs networks in every split; got none for {split} in "
                f"{directory}. Let `l2o data {_COMMANDS[name]}` finish."
            )
    facts: dict[str, Any] = {"checkpoints_per_run": checkpoints_per_run}
    for split, groups in found.items():
        accuracies = torch.cat([group.accuracies for group in groups])
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
    return Population(name=name, **found, facts=facts)


def batches(
    groups: Sequence[Alike],
    batch_size: int,
    generator: torch.Generator | None = None,
    *,
    piece: int = 4,
) -> Iterator[tuple[NetworkBatch, Float[Tensor, " B"]]]:
    """Yield networks of several architectures with their accuracies, each once.

    A group is dealt out in pieces, since networks of one architecture cost less side
    by side; a batch is filled with pieces of many groups.

    Args:
        groups: the networks.
        batch_size: networks a batch; a batch may exceed it by part of a piece.
        generator: shuffles networks, pieces and so batches; None keeps the order.
        piece: networks of one group that stay together.
    """
    pieces: list[Alike] = []
    for group in groups:
        rows = torch.arange(len(group))
        if generator is not None:
            rows = torch.randperm(len(group), generator=generator)
        pieces += [group.at(part) for part in rows.split(piece)]
    order = torch.arange(len(pieces))
    if generator is not None:
        order = torch.randperm(len(pieces), generator=generator)
    waiting: list[Alike] = []
    for index in order.tolist():
        waiting.append(pieces[index])
        if sum(map(len, waiting)) >= batch_size:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(pieces: Sequence[Alike]) -> tuple[NetworkBatch, Tensor]:
    """Return pieces as one batch; those of one architecture are stacked."""
    alike: dict[int, list[Alike]] = {}
    for one in pieces:
        alike.setdefault(id(one.graph), []).append(one)
    stacks, targets, start = [], [], 0
    for members in alike.values():
        graph = members[0].graph
        params = {
            name: torch.cat([one.params[name] for one in members])
            for name in graph.shapes
        }
        targets += [one.accuracies for one in members]
        count = sum(map(len, members))
        stacks.append(NetworkStack(graph, params, torch.arange(start, start + count)))
        start += count
    return NetworkBatch(tuple(stacks)), torch.cat(targets)


def park_graph(architecture: WildArchitecture) -> NeuralGraph:
    """Return the graph of a network of the park, with activations and skips."""
    return layered_graph(
        parameter_shapes(architecture),
        activations=[layer.activation for layer in architecture.layers],
        skips=[layer.skip for layer in architecture.layers],
    )


def _read_park(
    checkpoints_per_run: int | None, directory: Path, split: Split
) -> Iterator[Alike]:
    for run in read_park(directory, split):
        everything = Alike(
            graph=park_graph(run.architecture),
            params=run.parameters,
            accuracies=run.accuracies,
        )
        if split != "train" or checkpoints_per_run is None:
            yield everything
            continue
        last = len(run) - 1
        places = torch.linspace(last, 0, min(checkpoints_per_run, len(run)))
        yield everything.at(places.round().long())


def _read_zoo(directory: Path, split: Split) -> Iterator[Alike]:
    networks = read_small_cnn_zoo(directory, split)
    shapes = {
        name: tuple(value.shape[1:]) for name, value in networks.parameters.items()
    }
    yield Alike(
        graph=layered_graph(shapes),
        params=networks.parameters,
        accuracies=networks.accuracies,
    )


def _finite(groups: Sequence[Alike]) -> tuple[Alike, ...]:
    """Return the networks all of whose weights are numbers."""
    kept = []
    for group in groups:
        values = torch.cat([value.flatten(1) for value in group.params.values()], 1)
        is_finite = values.isfinite().all(dim=1)
        if is_finite.all():
            kept.append(group)
        elif is_finite.any():
            kept.append(group.at(is_finite.nonzero().squeeze(1)))
    return tuple(kept)


_COMMANDS: dict[PopulationName, str] = {"park": "wild-park", "zoo": "cnn-zoo"}


def _description(name: PopulationName, directory: Path) -> dict[str, Any]:
    """Return how the population was made; a published zoo does not say."""
    if name == "park":
        return describe_park(directory)
    path = directory / "zoo.json"
    return json.loads(path.read_text()) if path.is_file() else {"source": "published"}
