"""Configurations of companion networks: frozen records, one `kind` per backbone."""

from dataclasses import field
from typing import Literal, TypeAlias

from l2o.config import BelowOne, NotNegative, Positive, frozen_config
from l2o.nets.transformer import RelationalConfig

from .architecture import ACTIVATIONS

Pooling: TypeAlias = Literal["outputs", "mean", "max", "last_mean", "last_max"]


@frozen_config
class InputsConfig:
    """How trained networks become node and edge features; each part is a switch."""

    num_inputs: Positive[int]
    """Input neurons of the networks that are read."""
    num_hidden: NotNegative[int]
    """Largest number of hidden layers of a network that is read."""
    num_outputs: Positive[int]
    """Output neurons."""
    kernel: tuple[Positive[int], ...] = (1, 1)
    """Height and width of the largest kernel, with the depth before them where some
    have three axes; smaller ones are padded, centred."""
    linear_as_conv: bool = True
    """Whether a linear layer is a kernel of one cell; if not, it has a projection of
    its own."""
    reversed_edges: bool = False
    """Whether messages also run backwards and edges see the features of both ways."""
    fourier_scale: Positive[float] | None = 1.0
    """Standard deviation of the fixed frequencies that features pass through; None for
    a plain linear map."""
    num_frequencies: Positive[int] = 128
    """Number of fixed frequencies."""
    positions: bool = True
    """Whether neurons have an embedding of their input or output number or layer."""
    activations: tuple[str, ...] = ()
    """Activation functions of hidden neurons that have an embedding each; a network
    with another is an error. Empty for no embedding."""
    ties: bool = True
    """Whether residual connections are edges (weight 1 at the kernel's centre)."""
    num_places: NotNegative[int] = 0
    """Places of the largest flattened map that has a virtual layer (`virtual_layers`),
    each with an embedding; 0 for networks without."""
    node_channels: Positive[int] = 1
    """Entries per neuron that are read: its bias, and others in the order of the
    network's parameters, such as the slope of a PReLU, or a position table's entry for
    each position."""
    num_probes: NotNegative[int] = 0
    """Learned inputs whose activations every neuron sees; 0 for none."""
    probe_shape: tuple[Positive[int], ...] = ()
    """Positions of a probe, (height, width) where the networks read images; empty where
    they read one number per input neuron."""

    def __post_init__(self) -> None:
        if len(self.kernel) not in (2, 3):
            raise ValueError(
                "InputsConfig kernel needs two or three axes; got "
                f"kernel={self.kernel}. Write (1, width) for kernels of one axis."
            )
        unknown = [name for name in self.activations if name not in ACTIVATIONS]
        if unknown:
            raise ValueError(
                f"InputsConfig activations must be out of {ACTIVATIONS}; got "
                f"{unknown}. Leave them out."
            )


@frozen_config
class NGGNNBackboneConfig:
    """NG-GNN on batches of trained networks."""

    kind: Literal["ng_gnn"] = "ng_gnn"
    width: Positive[int] = 64
    """Channels of a node state and of an edge state; even, at least 6."""
    layers: Positive[int] = 4
    """Number of message-passing layers."""
    dropout: BelowOne[float] = 0.0
    """Share of node channels that are dropped after each layer but the last."""
    typical_log_degree: Positive[float] = 3.4657359027997265
    """Mean of log(number of neighbours + 1) over the neurons of the training set: where
    the amplification by degree is 1. The default is 31 neighbours."""
    residual: bool = False
    """Whether a layer adds to the node states that it reads, before its norm; the last
    one never does. Not in the paper; without it, differences between networks nearly
    vanish in untrained layers."""


@frozen_config
class NGTBackboneConfig:
    """NG-T on batches of trained networks."""

    kind: Literal["ng_t"] = "ng_t"
    layers: Positive[int] = 4
    """Number of relational transformer layers."""
    layer: RelationalConfig = field(default_factory=RelationalConfig)
    """What each layer looks like."""


BackboneConfig: TypeAlias = NGGNNBackboneConfig | NGTBackboneConfig


@frozen_config
class ReadoutConfig:
    """From node states to numbers per network."""

    pooling: Pooling = "outputs"
    """`outputs`: the states of the output neurons, one after another. `mean`, `max`:
    over all neurons. `last_mean`, `last_max`: over the output neurons."""
    width: Positive[int] = 64
    """Channels of each hidden layer."""
    layers: Positive[int] = 2
    """Number of hidden layers."""


@frozen_config
class CompanionConfig:
    """A network that reads trained networks."""

    inputs: InputsConfig
    """How networks become features."""
    backbone: BackboneConfig
    """NG-GNN or NG-T."""
    readout: ReadoutConfig = ReadoutConfig()
    """How states become an answer; `NetworkEditor` does not use it."""
