"""Configurations of baselines: frozen records, one `kind` each."""

from typing import Literal, TypeAlias

from l2o.config import (
    BelowOne,
    NotNegative,
    Positive,
    check_positive,
    frozen_config,
)


@frozen_config
class MLPConfig:
    """A multi-layer perceptron on the flattened parameters, blind to symmetry."""

    kind: Literal["mlp"] = "mlp"
    width: Positive[int] = 256
    """Channels of each hidden layer."""
    layers: Positive[int] = 3
    """Number of hidden layers."""
    dropout: BelowOne[float] = 0.0
    """Share of hidden channels that are dropped."""


@frozen_config
class SetNNConfig:
    """Deep Sets on single entries; its symmetry is larger than that of networks."""

    kind: Literal["set_nn"] = "set_nn"
    width: Positive[int] = 64
    """Channels per entry."""
    layers: Positive[int] = 2
    """Number of layers before the entries are averaged."""
    head_width: Positive[int] = 256
    """Channels of the hidden layer after that."""
    with_tensors: bool = True
    """Whether an entry knows which tensor it is from."""


@frozen_config
class DWSNetConfig:
    """DWSNet: affine equivariant layers, hidden neurons exchangeable."""

    kind: Literal["dwsnet"] = "dwsnet"
    width: Positive[int] = 32
    """Channels per entry."""
    layers: Positive[int] = 5
    """Number of equivariant layers."""
    pooling: Literal["mean", "max"] = "max"
    """How exchangeable neurons are pooled."""
    batch_norm: bool = True
    """Whether tensors are normalised between the layers, over the batch."""
    dropout: BelowOne[float] = 0.0
    """Share of the channels that are dropped between the layers."""


@frozen_config
class FunctionalConfig:
    """NFN: equivariant layers, all neurons exchangeable (np) or the hidden (hnp)."""

    kind: Literal["nfn"] = "nfn"
    mode: Literal["np", "hnp"] = "np"
    """`np`: inputs and outputs permute too, and are told apart by what is added to the
    features. `hnp`: only hidden neurons permute."""
    widths: tuple[Positive[int], ...] = (64, 64, 64)
    """Channels per entry after each equivariant layer."""
    num_frequencies: NotNegative[int] = 64
    """Random frequencies of the input; 0 for the plain value."""
    fourier_scale: Positive[float] = 3.0
    """Standard deviation of the frequencies."""
    num_bands: NotNegative[int] = 3
    """Frequencies of the encoding of inputs, outputs and layers; 0 for none."""
    max_frequency: float = 3.0
    """Highest of these frequencies, in half turns from the first to the last."""
    head_width: Positive[int] = 1000
    """Channels of both hidden layers of the head."""
    dropout: BelowOne[float] = 0.0
    """Share of the channels that are dropped between layers, and in the head."""

    def __post_init__(self) -> None:
        check_positive("FunctionalConfig", widths=len(self.widths))


@frozen_config
class StatNNConfig:
    """A perceptron on statistics of every tensor, for any depth up to a limit."""

    kind: Literal["stat_nn"] = "stat_nn"
    max_layers: Positive[int] = 6
    """Layers of the deepest network; shallower ones leave zeros."""
    width: Positive[int] = 1000
    """Channels of both hidden layers."""
    dropout: BelowOne[float] = 0.0
    """Share of hidden channels that are dropped."""


EditorConfig: TypeAlias = MLPConfig | DWSNetConfig | FunctionalConfig
"""What can answer with an edit."""
BaselineConfig: TypeAlias = EditorConfig | SetNNConfig | StatNNConfig
"""What can answer with numbers."""
