"""Configurations of learned networks: frozen records, one `kind` each."""

from typing import Literal, TypeAlias

from l2o.config import NotNegative, Positive, frozen_config

Activation: TypeAlias = Literal["relu", "silu"]


def _check_width(owner: str, width: int) -> None:
    """Raise unless a state of this width can hold a position."""
    if width % 2 or width < 6:
        raise ValueError(
            f"{owner} width must be even and at least 6 (positions need the channels); "
            f"got width={width}. Use for example 32."
        )


@frozen_config
class FeedForwardConfig:
    """The plain per-entry network: every entry by itself, no graph."""

    kind: Literal["ff"] = "ff"
    width: Positive[int] = 32
    """Channels of each hidden layer."""
    layers: Positive[int] = 2
    """Number of hidden layers."""
    activation: Activation = "silu"
    """Pointwise function after each hidden layer."""
    init: Literal["torch", "kaiming"] = "torch"
    """How the hidden layers start that read hidden layers: as `torch.nn.Linear` does,
    by which the signal fades with depth, or by Kaiming He's rule without biases."""


@frozen_config
class _WithHeadConfig:
    """What all networks have that end in a per-entry network."""

    head: FeedForwardConfig = FeedForwardConfig()
    """The per-entry network that reads an entry's features and the state that belongs
    to it: its edge's, its neuron's or its tensor's."""


@frozen_config
class _GraphNetConfig(_WithHeadConfig):
    """What all networks with states of neurons and edges have."""

    width: Positive[int] = 32
    """Channels of a neuron's and of an edge's state; even and at least 6, where states
    hold positions."""
    layers: Positive[int] = 2
    """Number of layers that update the states."""
    kernel: Positive[int] | None = None
    """Kernels are padded, centred, to `kernel x kernel` cells and every cell is an
    input channel of its own. None: an edge reads the mean over its cells of the
    features and of their magnitudes, whatever the number of cells."""


@frozen_config
class NGGNNConfig(_GraphNetConfig):
    """The graph network NG-GNN, ending in a per-entry network."""

    kind: Literal["ng_gnn"] = "ng_gnn"
    directions: Literal["own", "shared"] = "own"
    """Weights for messages along and against the edges: `own` for each direction, with
    one state per edge; or `shared`, with a state for each direction (the paper)."""
    residual: bool = True
    """Whether node and edge updates are added to the previous state."""
    activation: Activation = "silu"
    """Pointwise function in the message-passing layers."""
    readout: Literal["own", "released"] = "own"
    """Which neuron a bias reads: its `own`; or, as in the paper's `released` code, the
    one as many places before it as the network has inputs, which breaks the symmetry of
    the neurons. Only for measuring what that fault costs."""

    def __post_init__(self) -> None:
        _check_width("NGGNNConfig", self.width)


@frozen_config
class NeuronGNNConfig:
    """The graph network NG-GNN neuron by neuron, without a hidden state per entry."""

    kind: Literal["neuron_gnn"] = "neuron_gnn"
    width: Positive[int] = 16
    """Channels of the state of a neuron and of a matrix."""
    message_width: Positive[int] = 8
    """Channels of a message through one edge channel."""
    layers: NotNegative[int] = 2
    """Number of rounds of messages; 0 cuts the graph."""


@frozen_config
class NGTConfig(_GraphNetConfig):
    """The relational transformer NG-T, ending in a per-entry network."""

    kind: Literal["ng_t"] = "ng_t"
    heads: Positive[int] = 4
    """Attention heads; must divide `width`."""
    readout: Literal["own", "released"] = "own"
    """Which neurons and edges parameters read: their `own`; or, as in the paper's
    `released` code, those one place before, which breaks the symmetry of the neurons.
    Only for measuring what that fault costs."""
    most_neurons: Positive[int] = 2048
    """Largest graph that is read, in neurons: time and memory of a step grow with their
    square."""

    def __post_init__(self) -> None:
        _check_width("NGTConfig", self.width)
        if self.width % self.heads:
            raise ValueError(
                f"NGTConfig heads must divide width; got {self.heads} and "
                f"{self.width}. Choose a divisor, for example 1."
            )


@frozen_config
class LSTMConfig(_WithHeadConfig):
    """A recurrent network over the tensors, in order, next to a per-entry one."""

    kind: Literal["lstm"] = "lstm"
    width: Positive[int] = 32
    """Channels of a tensor's state and of what its entries are averaged to."""


@frozen_config
class NFNConfig(_GraphNetConfig):
    """A neural functional for plain chains, ending in a per-entry network.

    Its `layers` are equivariant layers with an activation; one more follows without.
    """

    kind: Literal["nfn"] = "nfn"
    depth: Positive[int] = 4
    """Most layers of a chain; each has weights of its own."""
    fourier_scale: Positive[float] | None = None
    """Standard deviation of `width` fixed random frequencies that the inputs pass
    through; None for the plain inputs."""


NetConfig: TypeAlias = (
    FeedForwardConfig | NGGNNConfig | NGTConfig | LSTMConfig | NFNConfig
)
