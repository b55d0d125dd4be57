"""The paper's networks, in sizes whose parameter counts it and its code report.

Reference:
    Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
    Representations of Neural Networks", https://arxiv.org/abs/2403.12143, sections 4.1
    and 4.2 and appendix D. Where text and code disagree, these are the code's sizes.
"""

from dataclasses import replace
from typing import Literal, TypeAlias

from l2o.nets.transformer import RelationalConfig

from .config import (
    BackboneConfig,
    CompanionConfig,
    InputsConfig,
    NGGNNBackboneConfig,
    NGTBackboneConfig,
    ReadoutConfig,
)

Kind: TypeAlias = Literal["ng_gnn", "ng_t"]

PAPER_ACTIVATIONS = ("none", "relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu")
"""Activation functions that the paper's table has rows for."""

SMALL_TRANSFORMER = NGTBackboneConfig(
    layers=3,
    layer=RelationalConfig(
        node_width=32,
        edge_width=16,
        attention_width=32,
        node_hidden=64,
        edge_hidden=64,
        heads=4,
        dropout=0.2,
    ),
)
"""The paper's NG-T for CNNs of many architectures."""

SIREN_LOG_DEGREE = 3.5389
"""Mean log(degree + 1) of a SIREN of 2, 32, 32 and 1 neurons with edges both ways; the
paper's code counts one way."""


def inr_classifier(
    kind: Kind,
    *,
    width: int = 64,
    small_transformer: bool = False,
    num_probes: int = 0,
    dropout: float = 0.2,
) -> CompanionConfig:
    """Return the network that classifies SIRENs of 2, 32, 32 and 1 neurons.

    Args:
        kind: `ng_gnn` (331,466 parameters) or `ng_t` (376,586).
        width: channels of NG-GNN, 64 in the paper's text and 32 in its code (92,010
            parameters).
        small_transformer: whether NG-T is the paper's for CNNs of many architectures
            (72,810 parameters).
        num_probes: learned inputs; 0, 4, 16 or 64 in the paper.
        dropout: share of channels that are dropped.
    """
    return CompanionConfig(
        inputs=InputsConfig(
            num_inputs=2,
            num_hidden=2,
            num_outputs=1,
            reversed_edges=kind == "ng_gnn",
            fourier_scale=3.0 if kind == "ng_gnn" else 1.0,
            num_probes=num_probes,
        ),
        backbone=(
            NGGNNBackboneConfig(
                width=width, dropout=dropout, typical_log_degree=SIREN_LOG_DEGREE
            )
            if kind == "ng_gnn"
            else _transformer(small_transformer, RelationalConfig(dropout=dropout))
        ),
        readout=(
            ReadoutConfig(width=width, layers=2)
            if kind == "ng_gnn"
            else ReadoutConfig(width=128, layers=1)
        ),
    )


def inr_editor(
    kind: Kind,
    *,
    width: int = 128,
    small_transformer: bool = False,
    num_probes: int = 0,
    dropout: float | None = None,
) -> CompanionConfig:
    """Return the network that edits SIRENs of 2, 32, 32 and 1 neurons.

    Args:
        kind: `ng_gnn` (1,186,696 parameters) or `ng_t` (391,112).
        width: channels of NG-GNN; 298,440 parameters at 64.
        small_transformer: as in `inr_classifier` (78,184 parameters).
        num_probes: learned inputs; 0, 4, 16 or 64 in the paper.
        dropout: share of channels that are dropped; None for the paper's code's, 0.2
            of NG-GNN and 0.3 of NG-T.
    """
    if dropout is None:
        dropout = 0.2 if kind == "ng_gnn" else 0.3
    return CompanionConfig(
        inputs=InputsConfig(
            num_inputs=2,
            num_hidden=2,
            num_outputs=1,
            reversed_edges=True,
            fourier_scale=None if kind == "ng_gnn" else 3.0,
            num_probes=num_probes,
        ),
        backbone=(
            NGGNNBackboneConfig(
                width=width, dropout=dropout, typical_log_degree=SIREN_LOG_DEGREE
            )
            if kind == "ng_gnn"
            else _transformer(
                small_transformer, RelationalConfig(heads=4, dropout=dropout)
            )
        ),
    )


def zoo_predictor(kind: Kind, *, linear_as_conv: bool | None = None) -> CompanionConfig:
    """Return the network that predicts the accuracy of small grey-image CNNs.

    Args:
        kind: `ng_gnn` (5,587,969 parameters) or `ng_t` (1,807,873).
        linear_as_conv: whether the linear layer is read as a kernel of one cell; None
            for the paper's choice, which is yes for NG-T alone.
    """
    if linear_as_conv is None:
        linear_as_conv = kind == "ng_t"
    return _cnn_predictor(
        NGGNNBackboneConfig(width=256, typical_log_degree=2.2048)
        if kind == "ng_gnn"
        else NGTBackboneConfig(
            layer=RelationalConfig(
                node_width=128,
                edge_width=64,
                attention_width=256,
                node_hidden=256,
                edge_hidden=128,
            )
        ),
        colours=1,
        num_hidden=3,
        kernel=3,
        linear_as_conv=linear_as_conv,
        readout_width=256,
    )


def park_predictor(kind: Kind) -> CompanionConfig:
    """Return the network that predicts the accuracy of CNNs of many architectures.

    Args:
        kind: `ng_gnn` (369,025 parameters) or `ng_t` (92,705).
    """
    return _cnn_predictor(
        NGGNNBackboneConfig(width=64, typical_log_degree=2.1321)
        if kind == "ng_gnn"
        else SMALL_TRANSFORMER,
        colours=3,
        num_hidden=5,
        kernel=7,
        linear_as_conv=True,
        readout_width=64,
    )


def _transformer(is_small: bool, layer: RelationalConfig) -> NGTBackboneConfig:
    """Return NG-T of four such layers, or the small one with their dropout."""
    if not is_small:
        return NGTBackboneConfig(layer=layer)
    small = replace(SMALL_TRANSFORMER.layer, dropout=layer.dropout)
    return replace(SMALL_TRANSFORMER, layer=small)


def _cnn_predictor(
    backbone: BackboneConfig,
    *,
    colours: int,
    num_hidden: int,
    kernel: int,
    linear_as_conv: bool,
    readout_width: int,
) -> CompanionConfig:
    """Return what reads classifiers of ten kinds of image."""
    return CompanionConfig(
        inputs=InputsConfig(
            num_inputs=colours,
            num_hidden=num_hidden,
            num_outputs=10,
            kernel=(kernel, kernel),
            linear_as_conv=linear_as_conv,
            fourier_scale=3.0 if backbone.kind == "ng_gnn" else 1.0,
            activations=PAPER_ACTIVATIONS,
        ),
        backbone=backbone,
        readout=ReadoutConfig(width=readout_width, layers=2),
    )
