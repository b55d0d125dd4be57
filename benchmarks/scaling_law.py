"""What a step must cost at a billion parameters and more, by counting.

Formulas count matrix products, bytes kept and bytes sent. `tables` returns the tables
of SCALING.md; tests hold those against the page, and the formulas against what torch
counts where a network is small enough to run.
"""

from dataclasses import dataclass

from l2o.nets import NGGNNConfig
from l2o.rule.config import RuleConfig
from l2o.rule.newton_schulz import GROUP_ROWS, LONG, WHITENING_STEPS

from .report import github_table

_PARTS = RuleConfig()
# Channels per entry that the network of `ng-gnn` reads and returns.
FEATURES = _PARTS.features.build(_PARTS.direction_set()).num_features
OUTPUTS = _PARTS.head.build(_PARTS.direction_set()).num_outputs

# Bytes: rules compute in float32, FSDP sends weights and gradients in bfloat16.
FLOAT, SHARED = 4, 2


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A decoder as GPT-2's, of any size; tables of tokens and positions left out."""

    width: int
    """Channels of a token."""
    blocks: int
    """Attention blocks."""

    @property
    def num_parameters(self) -> int:
        """Entries of all matrices; vectors are left out."""
        return 12 * self.blocks * self.width**2

    @property
    def num_neurons(self) -> int:
        """Nodes of the neural graph.

        Of a block: two norms, two residual sums, the outputs of attention and of the
        perceptron, one width each; queries, keys and values; four widths inside.
        """
        return (6 + 3 + 4) * self.blocks * self.width

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Sides of every linear map of one block."""
        width = self.width
        return [(width, width)] * 4 + [(4 * width, width)] * 2


GPT_SIZES = {
    "1e9": Transformer(width=2048, blocks=20),
    "1e10": Transformer(width=4608, blocks=39),
    "1e11": Transformer(width=10240, blocks=79),
    "1e12": Transformer(width=25600, blocks=127),
}


def entry_flop(config: NGGNNConfig) -> int:
    """Return the products of the per-entry network, two operations each."""
    width, layers = config.head.width, config.head.layers
    return 2 * (FEATURES * width + (layers - 1) * width**2 + width * OUTPUTS)


def edge_flop(config: NGGNNConfig, *, is_recomputed: bool) -> int:
    """Return the products of one edge, from its features to what its entries read.

    Args:
        config: with `directions="own"` and `kernel=None`.
        is_recomputed: whether edge states do not stay in memory, so that each of the
            layers and the read-out starts from the features again.

    Linear maps in a row count as one, which they are in a step.
    """
    width, layers = config.width, config.layers
    encode = 2 * 2 * FEATURES * width
    messages = 2 * 2 * width * 2 * width
    update = 2 * 2 * width**2
    read_out = 2 * width**2 + 2 * width * config.head.width
    encodes, updates = 1, layers
    if is_recomputed:
        encodes, updates = layers + 1, layers * (layers + 1) // 2
    return encodes * encode + layers * messages + updates * update + read_out


def whitening_flop(rows: int, columns: int) -> int:
    """Return the products of Newton-Schulz on one matrix, in groups of rows if wide."""
    short, long = sorted((rows, columns))
    count = -(-short // GROUP_ROWS)
    if count == 1:
        return newton_schulz_flop(short, long, WHITENING_STEPS)
    sizes = [len(range(start, short, count)) for start in range(count)]
    steps = WHITENING_STEPS - 1
    by_groups = sum(newton_schulz_flop(size, long, steps) for size in sizes)
    return by_groups + newton_schulz_flop(short, long, 1)


def newton_schulz_flop(rows: int, columns: int, steps: int) -> int:
    """Return the products of Newton-Schulz steps on a matrix with long rows.

    Args:
        rows: its shorter side.
        columns: its longer side.
        steps: how many; of a long matrix they are taken on the products of its rows.
    """
    if columns > LONG * rows and steps > 1:
        return 2 * (2 * rows**2 * columns + (4 * steps - 3) * rows**3)
    return steps * 2 * (2 * rows**2 * columns + rows**3)


def step_flop(network: Transformer, config: NGGNNConfig) -> int:
    """Return the products of one step of the rule, edge states computed again."""
    each = edge_flop(config, is_recomputed=True) + entry_flop(config)
    white = sum(whitening_flop(*sides) for sides in network.matrices)
    return network.num_parameters * each + network.blocks * white


def gradient_flop(num_parameters: int, tokens: int) -> int:
    """Return the operations of forward and backward: six per parameter and token."""
    return 6 * num_parameters * tokens


def fsdp_bytes(num_parameters: int) -> int:
    """Return what a GPU receives for one forward and backward pass.

    Weights are gathered twice and gradients scattered once; for many GPUs, the share
    that is local already does not count.
    """
    return 3 * SHARED * num_parameters


def gathered_bytes(num_parameters: int) -> int:
    """Return what a GPU receives if it gathers everything that the rule reads.

    Weight, gradient and six averages in float32: what the optimizer does today.
    """
    return 8 * FLOAT * num_parameters


def sharded_bytes(network: Transformer, config: NGGNNConfig, gpus: int) -> int:
    """Return what a GPU must receive if edges stay where their weights lie.

    Of each neuron and layer, sum, sum of squares, minimum and maximum are scattered to
    one GPU that reduces them, and the new state is gathered by all. A matrix is
    whitened by one GPU, which receives its momentum and sends the result back.
    """
    node = config.layers * (4 + 1) * config.width * FLOAT
    white = 2 * FLOAT * network.num_parameters // gpus
    return network.num_neurons * node + white


def state_bytes(num_parameters: int, floats: int) -> int:
    """Return what an optimizer keeps, over all GPUs."""
    return FLOAT * floats * num_parameters


def compute_table(config: NGGNNConfig, tokens: int) -> str:
    """Return the table of operations.

    Args:
        config: of the rule.
        tokens: per batch, over all GPUs.
    """
    lines = []
    for name, network in GPT_SIZES.items():
        size = network.num_parameters
        white = network.blocks * sum(whitening_flop(*s) for s in network.matrices)
        step, gradient = step_flop(network, config), gradient_flop(size, tokens)
        lines.append(
            (
                name,
                f"{network.width} x {network.blocks}",
                f"{(step - white) / size / 1e3:.1f}",
                f"{white / size / 1e3:.1f}",
                f"{step:.2g}",
                f"{gradient:.2g}",
                f"{step / gradient:.2%}",
            )
        )
    heads = (
        *("parameters", "width x blocks", "network kFLOP", "whitening kFLOP"),
        *("step FLOP", "6ND FLOP", "share"),
    )
    return github_table(lines, heads)


def communication_table(config: NGGNNConfig, gpus: int) -> str:
    """Return the table of bytes: sent to one GPU per step, and kept by all."""
    lines = []
    for name, network in GPT_SIZES.items():
        size = network.num_parameters
        sharded, fsdp = sharded_bytes(network, config, gpus), fsdp_bytes(size)
        lines.append(
            (
                name,
                f"{network.num_neurons:.2g}",
                _gigabytes(fsdp),
                _gigabytes(sharded),
                f"{sharded / fsdp:.1%}",
                _gigabytes(gathered_bytes(size)),
                _gigabytes(state_bytes(size, 2)),
                _gigabytes(state_bytes(size, 6)),
            )
        )
    heads = (
        *("parameters", "neurons", "FSDP GB", "rule GB", "share"),
        *("rule today GB", "Adam state GB", "rule state GB"),
    )
    return github_table(lines, heads)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.3g}" if number < 1e12 else f"{number / 1e9:,.0f}"


def tables() -> tuple[str, str]:
    """Return the tables of SCALING.md."""
    config = NGGNNConfig()
    return compute_table(config, 2**22), communication_table(config, 1024)
