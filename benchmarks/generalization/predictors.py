"""What predicts a network's accuracy from its weights, by name."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, assert_never

from torch import nn

from l2o.companion import (
    CompanionConfig,
    NetworkPredictor,
    park_predictor,
    zoo_predictor,
)
from l2o.companion.baselines import BaselinePredictor, FunctionalConfig, StatNNConfig
from l2o.graph import NeuralGraph

from .data import PopulationName

PredictorName: TypeAlias = Literal[
    "ng-gnn",
    "ng-t",
    "stat-nn",
    "stat-nn-long",
    "nfn",
    "ng-gnn-small",
    "ng-t-small",
    "ng-gnn-no-activations",
    "ng-t-no-activations",
]
Predictor: TypeAlias = NetworkPredictor | BaselinePredictor


def build_predictor(
    name: PredictorName, population: PopulationName, graph: NeuralGraph
) -> Predictor:
    """Build a predictor, initialised from torch's generator.

    Args:
        name: which. `ng-gnn` and `ng-t` have the sizes that the paper has for the
            population; `-small` have the sizes for a park, whatever it is;
            `-no-activations` do not know what the neurons' activations are.
            `stat-nn-long` is `stat-nn`, trained for longer. The size of `nfn` is ours,
            since the paper does not give it.
        population: what it will read.
        graph: an architecture of the population; NFN reads no other.

    Raises:
        ValueError: if NFN shall read networks that differ.
    """
    match name:
        case "ng-gnn" | "ng-gnn-no-activations" | "ng-gnn-small":
            return NetworkPredictor(_config(name, "ng_gnn", population))
        case "ng-t" | "ng-t-no-activations" | "ng-t-small":
            return NetworkPredictor(_config(name, "ng_t", population))
        case "stat-nn" | "stat-nn-long":
            layers = 6 if population == "park" else 4
            return BaselinePredictor(StatNNConfig(max_layers=layers), graph)
        case "nfn":
            if population == "park":
                raise ValueError(
                    "nfn reads networks of one architecture; got the park, where they "
                    "differ. Leave it out, or choose the zoo."
                )
            nfn = FunctionalConfig(mode="hnp", widths=(16, 16, 16))
            return BaselinePredictor(nfn, graph)
        case _:
            assert_never(name)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How a batch is cut, so that what is computed at a time fits a cache.

    Results do not depend on it. NG-T pads networks to the largest of a part, so it gets
    one architecture at a time.
    """

    part: int | None = None
    """Networks; None for whole batches."""
    one_architecture: bool = False
    """Whether a part holds one architecture only."""


def parts_of(name: PredictorName) -> Parts:
    """Return how batches are cut for a predictor."""
    match name:
        case "ng-gnn" | "ng-gnn-no-activations" | "ng-gnn-small":
            return Parts(part=16)
        case "ng-t" | "ng-t-no-activations" | "ng-t-small":
            return Parts(part=4, one_architecture=True)
        case "stat-nn" | "stat-nn-long" | "nfn":
            return Parts()
        case _:
            assert_never(name)


def _config(
    name: PredictorName, kind: Literal["ng_gnn", "ng_t"], population: PopulationName
) -> CompanionConfig:
    park, zoo = park_predictor(kind), zoo_predictor(kind)
    config = park if population == "park" else zoo
    if name.endswith("-small"):
        config = replace(config, backbone=park.backbone, readout=park.readout)
    if name.endswith("-no-activations"):
        config = replace(config, inputs=replace(config.inputs, activations=()))
    return config


def num_weights(predictor: nn.Module) -> int:
    """Return how many numbers a predictor learns."""
    return sum(weight.numel() for weight in predictor.parameters())
