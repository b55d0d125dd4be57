"""The networks that compete, by name and variant."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, assert_never, get_args

from l2o.companion import (
    CompanionConfig,
    NetworkClassifier,
    NetworkEditor,
    inr_classifier,
    inr_editor,
)
from l2o.companion.baselines import (
    BaselineClassifier,
    BaselineEditor,
    DWSNetConfig,
    FunctionalConfig,
    MLPConfig,
    SetNNConfig,
)
from l2o.companion.config import NGGNNBackboneConfig

from .tasks import GRAPH, evaluate_sirens

GraphName: TypeAlias = Literal["ng_gnn", "ng_gnn_residual", "ng_t"]
ModelName: TypeAlias = Literal[GraphName, "mlp", "set_nn", "dwsnet", "nfn"]

Classifier: TypeAlias = NetworkClassifier | BaselineClassifier
Editor: TypeAlias = NetworkEditor | BaselineEditor

NUM_CLASSES = 10
TITLES: dict[ModelName, str] = {
    "ng_gnn": "NG-GNN",
    "ng_gnn_residual": "NG-GNN with residuals",
    "ng_t": "NG-T",
    "mlp": "MLP",
    "set_nn": "Set NN",
    "dwsnet": "DWSNet",
    "nfn": "NFN",
}
_PARTS: dict[ModelName, int] = {"ng_gnn": 16, "ng_gnn_residual": 16, "ng_t": 4}
"""Networks whose intermediate values fit a cache together."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network that competes."""

    model: ModelName
    """Which."""
    num_probes: int = 0
    """Learned inputs that the networks are run on, of graph networks."""
    has_positions: bool = True
    """Whether neurons know their layer, of graph networks."""

    @property
    def label(self) -> str:
        """A short name."""
        probes = f", {self.num_probes} probes" if self.is_graph_network else ""
        positions = "" if self.has_positions else ", no positions"
        return f"{TITLES[self.model]}{probes}{positions}"

    @property
    def is_graph_network(self) -> bool:
        """Whether it reads networks as graphs: the paper's two, and one of ours."""
        return self.model in get_args(GraphName)

    @property
    def part(self) -> int | None:
        """Networks to differentiate at a time, None for a batch at once.

        Batches can be cut where nothing couples the networks of one.
        """
        return _PARTS.get(self.model)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all graph networks of a contest have in common."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    width: int = 64
    """Channels of NG-GNN."""
    small_transformer: bool = False
    """Whether NG-T has the sizes of the paper's for CNNs of many architectures."""
    fourier_scale: float | None = None
    """Deviation of the frequencies that they see numbers through; None for the
    paper's."""


def variants(
    models: tuple[ModelName, ...],
    probes: tuple[int, ...],
    positions: tuple[bool, ...],
) -> list[Variant]:
    """Return each model, graph networks with each number of probes and of positions."""
    found = []
    for model in models:
        if not Variant(model=model).is_graph_network:
            found.append(Variant(model=model))
            continue
        found += [
            Variant(model=model, num_probes=count, has_positions=has_positions)
            for has_positions in positions
            for count in probes
        ]
    return found


def build_classifier(variant: Variant, sizes: Sizes, *, dropout: float) -> Classifier:
    """Build a network that names the class of an image.

    Args:
        variant: which.
        sizes: of graph networks; the others are as in the paper.
        dropout: share of the channels that are dropped while training; Set NN has none.
    """
    match variant.model:
        case "ng_gnn" | "ng_gnn_residual" | "ng_t":
            config = _graph_config(inr_classifier, variant, sizes, dropout)
            return NetworkClassifier(
                config, num_classes=NUM_CLASSES, evaluate=evaluate_sirens
            )
        case "mlp":
            baseline = MLPConfig(dropout=dropout)
        case "set_nn":
            baseline = SetNNConfig()
        case "dwsnet":
            baseline = DWSNetConfig(dropout=dropout)
        case "nfn":
            baseline = FunctionalConfig(dropout=dropout)
        case _:
            assert_never(variant.model)
    return BaselineClassifier(baseline, GRAPH, num_classes=NUM_CLASSES)


def build_editor(variant: Variant, sizes: Sizes, *, dropout: float | None) -> Editor:
    """Build a network that edits images.

    Args:
        variant: which; Set NN is none.
        sizes: of graph networks; the others are as in the paper.
        dropout: share of the channels that are dropped while training; None for the
            paper's with graph networks and for none with the others.

    Raises:
        ValueError: of Set NN.
    """
    share = 0.0 if dropout is None else dropout
    match variant.model:
        case "ng_gnn" | "ng_gnn_residual" | "ng_t":
            config = _graph_config(inr_editor, variant, sizes, dropout)
            return NetworkEditor(config, evaluate=evaluate_sirens)
        case "mlp":
            return BaselineEditor(MLPConfig(dropout=share), GRAPH)
        case "dwsnet":
            return BaselineEditor(DWSNetConfig(dropout=share), GRAPH)
        case "nfn":
            return BaselineEditor(FunctionalConfig(dropout=share), GRAPH)
        case "set_nn":
            raise ValueError(
                "inr-editing needs networks that answer entry by entry; got set_nn, "
                "which forgets which is which. Leave it out of --models."
            )
        case _:
            assert_never(variant.model)


def _graph_config(
    preset: Callable[..., CompanionConfig],
    variant: Variant,
    sizes: Sizes,
    dropout: float | None,
) -> CompanionConfig:
    """Return a preset of the paper's with what is this variant's, in these sizes."""
    config = preset(
        "ng_t" if variant.model == "ng_t" else "ng_gnn",
        width=sizes.width,
        small_transformer=sizes.small_transformer,
        num_probes=variant.num_probes,
        dropout=dropout,
    )
    inputs = replace(config.inputs, positions=variant.has_positions)
    if sizes.fourier_scale is not None:
        inputs = replace(inputs, fourier_scale=sizes.fourier_scale)
    backbone = config.backbone
    if variant.model == "ng_gnn_residual":
        assert isinstance(backbone, NGGNNBackboneConfig)
        backbone = replace(backbone, residual=True)
    return replace(config, inputs=inputs, backbone=backbone)
