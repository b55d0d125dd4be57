"""The paper's sizes, with the parameter counts that it and its code report."""

from typing import Literal, TypeAlias

from .config import CompanionConfig

Kind: TypeAlias = Literal["ng_gnn", "ng_t"]


def inr_classifier(
    kind: Kind, *, width: int = 64, num_probes: int = 0
) -> CompanionConfig:
    """Return the network that classifies 2-32-32-1 SIRENs.

    Args:
        kind: NG-GNN or NG-T.
        width: of NG-GNN: 64 as in the paper's text, 32 as in its code.
        num_probes: 0, 16 or 64 in the paper.
    """
    ...


def inr_editor(kind: Kind, *, num_probes: int = 0) -> CompanionConfig: ...


def zoo_predictor(kind: Kind) -> CompanionConfig: ...


def park_predictor(kind: Kind) -> CompanionConfig: ...
