"""The neuron-level rule: a graph network at about the price of Muon."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from l2o.config import config_values
from l2o.graph import NeuralGraph, derived
from l2o.graph.matrices import Stack
from l2o.nets.fast_ops import add, in_plain_eager, multiplied, sum_of_squares
from l2o.nets.neuron_gnn import NeuronGNN, NeuronOutputs

from .base_rates import BaseRates
from .head import fan_in_units
from .neuron_config import NeuronRuleConfig
from .row_column import (
    LIMIT,
    NUM_CHANNELS,
    NUM_STATIC,
    NUM_TIE_KINDS,
    WHOLE,
    Block,
    Clock,
    StackValues,
    Statistics,
    WeightExchange,
    Wired,
    blocks_of,
    features_of,
    measure,
    num_line_features,
    num_matrix_features,
    read_clock,
    read_stacks,
    wire,
)
from .rule import AbstractRule
from .state import ADAM_EPS, TINY, Averages, State, Tensors
from .whitening import orthogonalize

_FULL_SIGNAL = 5.0
"""How many times the signal floor a momentum's size must be for its small singular
values to be pushed as far as they go."""

_LEAST_FLOOR = 1e-12
"""In place of a signal floor of zero, so that nothing is divided by zero."""


_ADAM_ENTRIES = 2**20
"""Entries whose Adam direction is computed at a time on a CPU, to save memory."""


class NeuronRule(AbstractRule):
    r"""A learned optimizer whose network speaks of tensors and neurons, not of entries.

    Choose it for training: it costs about as much as Muon, whatever it has learned. The
    update of entry (i, j) of a matrix is

    .. math::
        -\eta \nu \exp(s + r_i + c_j) D_{ij}

    with the step size :math:`\eta`, the unit :math:`\nu`, a learned scale for the
    matrix, for each row and for each column, and the direction :math:`D`: for a linear
    map the whitened momentum at a root mean square of 1, else Adam's. The network also
    says which momentum is taken: more of the newest gradient, or more of a slower
    average; all shares are at least 0. An untrained rule is the whitened momentum with
    Nesterov's look ahead, and Adam for what is no linear map. No output makes an entry
    move against its direction, and without gradients every update dies out.

    Three more outputs of a matrix are powers from 0 to 1 of scales that others use as
    they are: of the rows of :math:`D` (1 is NorMuon without its memory), of the second
    moment's row and column means (1 is Adafactor's), and of the weights' norm over that
    of :math:`D` (1 is LAMB's and LARS's).

    Args:
        config: sizes, decays and bounds. None means the defaults.

    Example:
        >>> import l2o, torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = l2o.NeuralGraphOpt(layer.parameters(), rule=NeuronRule())

    Reference:
        Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143 (graph).
        Its network has a state per entry; here statistics of rows and columns take its
        place, and messages travel as products with the weights. Jordan et al., 2024,
        "Muon", https://kellerjordan.github.io/posts/muon/: the direction.
    """

    reads_horizon = True
    reads_aim = True

    def __init__(self, config: NeuronRuleConfig | None = None) -> None:
        super().__init__()
        self.config = NeuronRuleConfig() if config is None else config
        self.step_size = self.config.step_size
        self.averages = Averages(
            momentum_decays=self.config.momentum_decays,
            second_moment_decay=self.config.second_moment_decay,
        )
        num_momenta = len(self.config.momentum_decays)
        self.num_outputs = 4 + num_momenta
        num_scales = len(self.config.time_scales)
        self.base_rates = BaseRates(self.num_outputs - 1)
        self.net: NeuronGNN | None = None
        if self.config.net is not None:
            self.net = NeuronGNN(
                self.config.net,
                num_line_features=num_line_features(num_momenta),
                num_matrix_features=num_matrix_features(num_momenta, num_scales),
                num_static=NUM_STATIC,
                num_channels=NUM_CHANNELS,
                num_tie_kinds=NUM_TIE_KINDS,
                num_outputs=self.num_outputs,
            )

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""

    @override
    def prepare(self, graph: NeuralGraph) -> None:
        """Find the matrices of a graph."""
        wire(graph, self.base_rates.log_rates)

    @override
    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return how initial weights of linear maps are scaled; 1 for all else."""
        if self.config.unit == "one":
            return super().units(graph)
        return fan_in_units(graph, self.config.full_fan_in)

    @override
    def settings(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return config_values(self.config)

    @override
    def forward(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`, in its own dtype."""
        wired, values, clock = self._read(graph, params, grads, state)
        statistics = measure(values, wired, clock)
        outputs = self._outputs(wired, values, clock, statistics)
        powers = (outputs.matrices[:, 1:] + self.base_rates.powers).clamp(0, 1)
        directions = self._directions(wired, values, clock, statistics, powers)
        rates = self.base_rates(
            wired.roles,
            clock.steps,
            horizon=self.horizon,
            is_averaged=self.is_averaged,
        )
        factors = self._factors(wired, statistics, outputs, powers, directions, rates)
        found = self._scaled(wired, directions, factors * self._units(graph, wired))
        return {name: found[name].to(param.dtype) for name, param in params.items()}

    def base(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return the directions of an untrained rule, without step size, unit or sign.

        Its arguments are those of `forward`.
        """
        wired, values, clock = self._read(graph, params, grads, state)
        statistics = measure(values, wired, clock)
        silent = self._silence(wired)
        powers = silent.matrices[:, 1:]
        directions = self._directions(wired, values, clock, statistics, powers)
        constant_rates = torch.zeros_like(wired.heights)
        factors = self._factors(
            wired, statistics, silent, powers, directions, constant_rates
        )
        return self._scaled(wired, directions, factors)

    def _outputs(
        self,
        wired: Wired,
        values: Sequence[StackValues],
        clock: Clock,
        statistics: Statistics,
    ) -> NeuronOutputs:
        """Return what the network says; zeros where there is none."""
        if self.net is None:
            return self._silence(wired)
        features = features_of(
            statistics,
            wired,
            clock,
            time_scales=self.config.time_scales,
            horizon=self.horizon,
        )
        return self.net(wired.wiring, features, WeightExchange(values, wired))

    def _silence(self, wired: Wired) -> NeuronOutputs:
        """Return the outputs of an untrained network: zeros."""
        lines, matrices = wired.per_line, wired.heights
        return NeuronOutputs(
            torch.zeros_like(lines),
            matrices.new_zeros(len(matrices), self.num_outputs),
        )

    def _scaled(
        self, wired: Wired, directions: "_Directions", factors: Tensor
    ) -> dict[str, Tensor]:
        """Return each parameter's direction times the factors of its lines."""
        updates = []
        for number, (stack, direction) in enumerate(
            zip(wired.stacks.stacks, directions.stacks, strict=True)
        ):
            count, rows, columns = stack.shape
            by_row = factors[wired.row_slice(number)].view(count, rows, 1)
            update = direction
            if stack.is_owned:
                update = multiplied(update, by_row.to(direction.dtype))
            if stack.has_columns and stack.is_owned:
                by_column = factors[wired.column_slice(number)].view(count, 1, columns)
                update = multiplied(update, by_column.to(direction.dtype))
            updates.append(update)
        return wired.stacks.scatter(updates)

    def num_weights(self) -> int:
        """Number of entries of theta."""
        return sum(weight.numel() for weight in self.parameters())

    def _read(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> tuple[Wired, list[StackValues], Clock]:
        """Lay everything on stacks."""
        wired = wire(graph, self.base_rates.log_rates)
        clock = read_clock(wired, state, self.averages)
        return wired, read_stacks(wired, params, grads, state), clock

    def _directions(
        self,
        wired: Wired,
        values: Sequence[StackValues],
        clock: Clock,
        statistics: Statistics,
        powers: Tensor,
    ) -> "_Directions":
        """Return the direction of each stack, before it is scaled.

        Args:
            wired: the graph.
            values: of each stack.
            clock: ages of the averages.
            statistics: of all entries.
            powers: what the network says of matrices, but for the scale, from 0 to 1.
        """
        config = self.config
        shares = powers[:, 3:]
        *averages, second = clock.ages[1:].unbind()
        # Where gradients have ended, slower averages would go on for long.
        moving = statistics.logs[2] - statistics.logs[-1]
        moving = moving[statistics.num_lines :].exp()
        lasting = (moving / (config.signal_floor + TINY)).clamp(max=1)
        newest = config.look_ahead * wired.is_map
        newest = torch.lerp(newest, wired.one, shares[:, 0])
        age = torch.lerp(averages[0], wired.one, newest)
        size = age * statistics.logs[-1, statistics.num_lines :].exp()
        lowest = max(config.signal_floor, _LEAST_FLOOR)
        whole = size * wired.roots
        least = _FULL_SIGNAL * lowest * whole
        columns = [newest, age * second.rsqrt(), ADAM_EPS * age, size, least]
        for place in range(1, len(averages)):
            columns += [shares[:, place] * lasting, averages[0] / averages[place]]
        table = torch.stack(columns)[:, :, None, None]
        stacks, norms = [], []
        for stack, item in zip(wired.stacks.stacks, values, strict=True):
            own = table[:, stack.matrices].to(item.grad.dtype).unbind()
            if not stack.is_owned:  # its owner is in another stack
                stacks.append(item.grad)
                norms.append(own[4])
                continue
            direction, norm = self._direction(stack, item, *own)
            stacks.append(direction)
            norms.append(norm)
        norms = torch.cat([*norms, table[4:5, -1]]).flatten()
        signal = (norms.to(whole.dtype) / whole).clamp(TINY, lowest).log()
        gradient, momentum = statistics.logs[1:3, statistics.num_lines :].unbind()
        least = math.log(config.fresh_floor + TINY)
        fresh = (gradient - momentum).clamp(max=least)
        signal = torch.add(signal, fresh) - (math.log(lowest) + least)
        is_whitened = wired.is_map
        if config.map_direction != "whitened":
            is_whitened = torch.zeros_like(is_whitened)
        return _Directions(stacks, is_whitened * signal, is_whitened)

    def _direction(
        self,
        stack: Stack,
        values: StackValues,
        newest: Tensor,
        root_factor: Tensor,
        root_offset: Tensor,
        size: Tensor,
        least: Tensor,
        *slower: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the direction of one stack, `[matrix, row, column]`, and norms.

        Args:
            stack: the stack.
            values: its entries.
            newest: share of the gradient; like all that follow, `[matrix, 1, 1]`.
            root_factor: what makes Adam's denominator of the root of the second moment,
                ages of both averages corrected.
            root_offset: what is then added.
            size: root mean square that the momentum would have if all gradients of the
                past were alike.
            least: norm that a momentum with enough signal has.
            *slower: share of each slower momentum and what makes up for its age.

        Returns:
            Of a linear map a matrix with singular values near 1, and the norm that its
            momentum had; of all else the direction itself, and `least`.
        """
        config = self.config
        if not stack.is_map or config.map_direction == "adam":
            adam = _adam(values, newest, root_factor, root_offset, slower)
            return adam, least
        momentum = _momentum(values, newest, slower)
        if config.map_direction == "momentum":
            return momentum / size, least
        return orthogonalize(
            momentum,
            least,
            steps=config.whitening_steps,
            group_rows=config.whitening_rows,
        )

    def _factors(
        self,
        wired: Wired,
        statistics: Statistics,
        outputs: NeuronOutputs,
        powers: Tensor,
        directions: "_Directions",
        rates: Tensor,
    ) -> Tensor:
        """Return what the network makes of every line, `[line]`.

        The direction times the factor of its row and that of its column is the update
        over step size and unit. A matrix's own scale, and what brings a whitened
        direction to its size, is part of its rows' factors.

        Args:
            wired: the graph.
            statistics: of all entries.
            outputs: what the network says.
            powers: what it says of matrices, but for the scale, from 0 to 1.
            directions: of each stack.
            rates: logarithms of the base's rates, `[matrix + 1]`.
        """
        config, num_rows = self.config, wired.num_rows
        squares = [sum_of_squares(item).flatten() for item in directions.stacks]
        squares = torch.cat(squares).to(wired.static.dtype)
        matrix = wired.wiring.matrix[:num_rows]
        totals = squares.new_zeros(len(wired.owner)).index_add(0, matrix, squares)
        means = torch.cat([squares, totals]) * wired.per_row_or_matrix
        in_rows, raw = (means + TINY).log().tensor_split([num_rows])  # of squares
        if config.whitening_scale == "unit":
            change = torch.addcmul(
                directions.log_signal, directions.is_whitened, raw, value=-0.5
            )
        else:
            longer = 0.5 * torch.maximum(wired.heights, wired.widths).log()
            change = directions.log_signal + directions.is_whitened * longer
        weight, root = statistics.logs[0], statistics.logs[-1]
        weight, whole = weight[statistics.num_lines :], root[statistics.num_lines :]
        row_power, factored_power, trust_power = powers[:, :3].unbind(1)
        # What dies out is not to be lifted again.
        lowest = max(-2 * LIMIT, math.log(config.signal_floor + TINY))
        trust = weight.clamp_min(-2 * LIMIT) - torch.add(
            change, raw, alpha=0.5
        ).clamp_min(lowest)
        scale = bounded(outputs.matrices[:, 0], config.max_log_scale)
        scale = torch.addcmul(scale + change + rates, trust_power, trust)
        factored_power = factored_power * wired.has_columns
        shared = torch.stack([scale, row_power, factored_power, whole, raw])
        shared = shared.index_select(1, wired.wiring.matrix)
        scale, row_power, factored_power, whole, raw = shared.unbind()
        beside = (root[: statistics.num_lines] - whole).clamp(-LIMIT, LIMIT)
        lines = bounded(outputs.lines, config.max_log_line)
        lines = torch.addcmul(lines, factored_power, beside, value=-1)
        rows = lines[:num_rows] + scale[:num_rows]
        beside = (in_rows - raw[:num_rows]).clamp_min(2 * lowest)
        rows = torch.addcmul(rows, row_power[:num_rows], beside, value=-0.5)
        return torch.cat([rows, lines[num_rows:]]).exp()

    def _units(self, graph: NeuralGraph, wired: Wired) -> Tensor:
        """Return the step of each row, minus its size; 1 for columns: `[line]`."""
        units = tuple(self.units(graph).values())
        like = wired.static
        return _line_units(graph, self.step_size, units, like.device, like.dtype)


@derived
def _line_units(
    graph: NeuralGraph,
    step_size: float,
    units: tuple[float, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return minus the step size in each row's units, 1 for columns.

    Args:
        graph: the neural graph.
        step_size: of the rule.
        units: of the parameters, in the order of `graph.shapes`.
        device: of the result.
        dtype: of the result.
    """
    wired = wire(graph, torch.empty((), dtype=dtype, device=device))
    found = torch.tensor(units, dtype=dtype, device="cpu").to(device)
    found = -step_size * found.index_select(0, wired.owner)
    rows = found.index_select(0, wired.wiring.matrix[: wired.num_rows])
    return torch.cat([rows, rows.new_ones(len(wired.wiring.neuron) - wired.num_rows)])


class _Directions(NamedTuple):
    """Directions before they are scaled."""

    stacks: list[Tensor]
    """Of each stack, `[matrix, row, column]`."""
    log_signal: Tensor
    """`[matrix + 1]`: logarithm of how much signal a whitened momentum has, at most 0;
    0 of all else."""
    is_whitened: Tensor
    """`[matrix + 1]`: 1 where directions have yet to be brought to their size."""


def _adam(
    values: StackValues,
    newest: Tensor,
    root_factor: Tensor,
    root_offset: Tensor,
    slower: Sequence[Tensor],
) -> Tensor:
    """Return the momentum over the root of the second moment; see `_direction`."""
    blocks = blocks_of(values.grad, _ADAM_ENTRIES)
    found = torch.empty_like(values.grad) if len(blocks) > 1 else None
    parts = []
    for block in blocks:
        momentum = _momentum(values, newest, slower, block)
        # TINY is for the derivative at zero, where the momentum is zero, too.
        second = values.second[block]
        root = (second if in_plain_eager() else second + TINY).sqrt()
        root = add(multiplied(root, root_factor), root_offset)
        out = _over(momentum) if found is None else found[block]
        parts.append(torch.div(momentum, root, out=out))
    return parts[0] if found is None else found


def _momentum(
    values: StackValues,
    newest: Tensor,
    slower: Sequence[Tensor],
    block: Block = WHOLE,
) -> Tensor:
    """Return the momentum that is taken, a tensor of ours in plain eager mode.

    Args:
        values: entries of a stack.
        newest: share of the gradient, `[matrix, 1, 1]`.
        slower: share of each slower momentum and what makes up for its age, likewise.
        block: which entries.
    """
    momentum = values.momenta[0][block]
    for place, (share, factor) in enumerate(
        zip(slower[::2], slower[1::2], strict=True), start=1
    ):
        slow = values.momenta[place][block] * factor
        momentum = torch.lerp(momentum, slow, share, out=_over(slow))
    out = _over(momentum) if slower else None
    return torch.lerp(momentum, values.grad[block], newest, out=out)


def _over(values: Tensor) -> Tensor | None:
    """Return a tensor of ours that may be written over, or None if it may not."""
    return values if in_plain_eager() else None


def bounded(values: Tensor, bound: float) -> Tensor:
    """Return values within a bound, approached smoothly."""
    return bound * torch.tanh(values / bound)
