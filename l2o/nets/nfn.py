"""NFN as a rule: equivariant layers on a chain, then a perceptron for the entries."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.layout import pad_cells
from l2o.graph.tiles import EdgeTile

from .chain import Chain, require_chain
from .config import NFNConfig
from .entries import Entries, at_owners
from .feed_forward import AbstractEntryNet, FeedForward
from .net import NetSizes
from .nfn_encodings import EntryEncoder
from .nfn_layers import Laid, chain_slots
from .nfn_stack import EquivariantStack

NUM_BANDS = 3
"""Frequencies of the encoding that distinguishes inputs, and outputs."""

MAX_FREQUENCY = 3.0
"""Highest of these, in half turns from the first to the last."""


class NFNNet(AbstractEntryNet):
    """A neural functional from features laid on a chain to numbers per entry.

    All neurons are exchangeable to its layers (NP), so widths may differ from chain to
    chain; inputs and outputs are distinguished by sines of their position. Its weights
    belong to the layers of the chain, by number, so a chain has at most `config.depth`
    layers. It keeps the states of all edges at a time, whatever `Rule.memory_limit`
    says.

    Args:
        config: sizes.
        sizes: channels in and out.

    Reference:
        Zhou et al., 2023, "Permutation Equivariant Neural Functionals",
        https://arxiv.org/abs/2302.14040; Kofinas et al., 2024, section 4.3.
        Differences: one bias per tensor and layer, where the released layers add up to
        four; contexts, which the paper's features do not have, join the inputs.
    """

    def __init__(self, config: NFNConfig, sizes: NetSizes) -> None:
        super().__init__()
        self.config = config
        width = config.width
        copies = 2 if config.kernel is None else config.kernel**2
        has_fourier = config.fourier_scale is not None
        self.encoder = EntryEncoder(
            sizes.num_features * copies,
            num_frequencies=width if has_fourier else 0,
            fourier_scale=config.fourier_scale or 1.0,
            num_bands=NUM_BANDS,
            max_frequency=MAX_FREQUENCY,
            with_layers=False,
        )
        inputs = self.encoder.out_channels
        self.context_in = sizes.from_context(inputs)
        self.slots = chain_slots((1,) * config.depth, {})
        channels = [inputs, *[width] * (config.layers + 1)]
        self.stack = EquivariantStack(self.slots, channels)
        self.entry = FeedForward(config.head, sizes, num_structure=width)

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError unless the graph is a plain chain of at most `depth` layers.

        Branches, norms, grouped convolutions, tied weights and tensors of unknown
        position are refused.
        """
        chain = self._chain(graph)
        for index, cells in zip(chain.weights, chain.num_cells, strict=True):
            self._summary(torch.zeros(1, 1, 1, cells, 1), graph.blocks[index].cells)

    @override
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry twice and write its outputs."""
        chain = self._chain(graph)
        states = self.stack(self._inputs(chain, entries, context))
        edges = _present(chain.weights, states[::2])
        nodes = _present(chain.biases, states[1::2])
        for tile in entries.tiles.owned:
            if isinstance(tile, EdgeTile):
                whole = torch.cat([edges[index] for index in tile.blocks])
            else:
                whole = torch.cat([nodes[index][0] for index in tile.items])
            own, state = at_owners(context, tile), whole[tile.box][..., None, :]
            entries.write(tile, self.entry(entries.read(tile), own, state))

    def _inputs(self, chain: Chain, entries: Entries, context: Tensor) -> Laid:
        """Return what the first layer reads, in the order of the slots."""
        graph, places = chain.graph, chain.places()
        edges: dict[int | None, Tensor] = {}
        nodes: dict[int | None, Tensor] = {}
        for tile in entries.tiles.edges:
            values = self._summary(entries.read(tile), tile.cells)
            if tile.is_whole:
                edges.update(zip(tile.blocks, values.split(1), strict=True))
                continue
            (index,) = tile.blocks
            shape = graph.blocks[index].view.shape[:3]
            _put(edges, index, shape, tile.box, values)
        for tile in entries.tiles.nodes:
            values = self._summary(entries.read(tile)[:, None, None], tile.cells)
            values = values.flatten(0, 2)
            if tile.is_whole:
                sizes = [len(graph.node_parameters[i].neurons) for i in tile.items]
                nodes.update(zip(tile.items, values.split(sizes), strict=True))
                continue
            (index,) = tile.items
            shape = graph.node_parameters[index].view.shape[:1]
            _put(nodes, index, shape, (tile.box,), values)
        laid: Laid = []
        for weight, bias in zip(chain.weights, chain.biases, strict=True):
            laid.append(edges[weight][:, :, :, None])
            laid.append(None if bias is None else nodes[bias][None, :, None])
        laid = self.encoder(laid, chain.sizes)
        if self.context_in is not None:
            shared = dict(zip(graph.shapes, self.context_in(context), strict=True))
            laid = [
                values
                if place is None or values is None
                else values + shared[place.parameter]
                for values, place in zip(laid, places, strict=True)
            ]
        laid += [None] * (len(self.slots) - len(laid))
        return [
            None if values is None else slot.fold(values)
            for slot, values in zip(self.slots, laid, strict=True)
        ]

    def _summary(self, values: Tensor, cells: tuple[int, ...]) -> Tensor:
        """Fold the cells of `[part, target, source, cell, feature]` into channels."""
        if self.config.kernel is None:
            return torch.cat([values.mean(3), values.abs().mean(3)], dim=-1)
        grid = (self.config.kernel, self.config.kernel)
        padded = [pad_cells(part, cells, grid) for part in values]
        return torch.stack(padded).flatten(3)

    def _chain(self, graph: NeuralGraph) -> Chain:
        """Return the layers of the graph."""
        return require_chain(graph, "NFNNet", self.config.depth)


def _present(places: Sequence[int | None], states: Laid) -> dict[int, Tensor]:
    """Return the states of the blocks or biases that are there, by their number."""
    pairs = zip(places, states, strict=False)  # a shorter chain leaves slots empty
    return {
        place: state
        for place, state in pairs
        if place is not None and state is not None
    }


def _put(
    found: dict[int | None, Tensor],
    index: int,
    shape: tuple[int, ...],
    box: tuple[slice, ...],
    values: Tensor,
) -> None:
    """Write one of several pieces of a tensor; never used with autograd."""
    if index not in found:
        found[index] = values.new_empty(*shape, values.shape[-1])
    found[index][box] = values
