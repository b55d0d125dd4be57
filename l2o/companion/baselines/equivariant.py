"""Baselines with equivariant layers: DWSNet and NFN."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from torch import Tensor, nn

from l2o.graph import NeuralGraph
from l2o.nets.chain import Chain, require_chain
from l2o.nets.nfn_encodings import EntryEncoder
from l2o.nets.nfn_layers import Slot, chain_slots, invariants
from l2o.nets.nfn_stack import EquivariantStack

from .config import DWSNetConfig, FunctionalConfig
from .tensors import perceptron


class EquivariantBody(nn.Module):
    """Equivariant layers on a chain, then a head on invariant features.

    Args:
        chain: the architecture.
        slots: its tensors, with the neurons that do not permute.
        encoder: encodes entries before the first layer.
        stack: the layers.
        head: from invariant features to the outputs; None for an editor.
    """

    def __init__(
        self,
        chain: Chain,
        slots: Sequence[Slot],
        *,
        encoder: EntryEncoder,
        stack: EquivariantStack,
        head: nn.Module | None,
    ) -> None:
        super().__init__()
        self.chain = chain
        self.slots = tuple(slots)
        self.encoder = encoder
        self.stack = stack
        self.head = head

    def forward(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return `[network, output]`."""
        assert self.head is not None
        laid = self.stack.between(self._features(params))
        return self.head(invariants(self.slots, laid, self.stack.pooling))

    def edit(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one number per entry, name to `[network, *shape]`."""
        pairs = zip(self.slots, self._features(params), strict=True)
        return self.chain.collect(
            [None if values is None else slot.unfold(values) for slot, values in pairs]
        )

    def _features(self, params: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Return the folded tensors after the last layer."""
        laid = self.encoder(self.chain.lay(params), self.chain.sizes)
        pairs = zip(self.slots, laid, strict=True)
        return self.stack(
            [None if values is None else slot.fold(values) for slot, values in pairs]
        )


def build_equivariant(
    config: DWSNetConfig | FunctionalConfig,
    graph: NeuralGraph,
    num_outputs: int | None,
) -> EquivariantBody:
    """Return a DWSNet or a neural functional (NFN).

    Args:
        config: kind and sizes.
        graph: the architecture, a plain chain of layers.
        num_outputs: numbers per network; None for one per parameter entry.

    Raises:
        ValueError: if the graph is not a plain chain.

    Reference:
        Navon et al., 2023, "Equivariant Architectures for Learning in Deep Weight
        Spaces", https://arxiv.org/abs/2301.12780; Zhou et al., 2023, "Permutation
        Equivariant Neural Functionals", https://arxiv.org/abs/2302.14040. Differences:
        layers as `EquivariantLinear` says; the released DWSNet has attention in place
        of its set layers by default, these are the affine ones of the paper.
    """
    match config:
        case DWSNetConfig():
            return _build_dwsnet(config, require_chain(graph, "DWSNet"), num_outputs)
        case FunctionalConfig():
            return _build_functional(config, require_chain(graph, "NFN"), num_outputs)
        case _:
            assert_never(config)


def _build_dwsnet(
    config: DWSNetConfig, chain: Chain, num_outputs: int | None
) -> EquivariantBody:
    slots = chain_slots(chain.num_cells, _ends(chain))
    widths = [config.width] * config.layers
    if num_outputs is None:
        widths[-1] = 1
    stack = EquivariantStack(
        slots,
        [1, *widths],
        pooling=config.pooling,
        batch_norm=config.batch_norm,
        dropout=config.dropout,
    )
    count = _num_invariants(chain, slots, widths[-1])
    head = None if num_outputs is None else nn.Linear(count, num_outputs)
    encoder = EntryEncoder()
    return EquivariantBody(chain, slots, encoder=encoder, stack=stack, head=head)


def _build_functional(
    config: FunctionalConfig, chain: Chain, num_outputs: int | None
) -> EquivariantBody:
    slots = chain_slots(chain.num_cells, _ends(chain) if config.mode == "hnp" else {})
    encoder = EntryEncoder(
        num_frequencies=config.num_frequencies,
        fourier_scale=config.fourier_scale,
        num_bands=config.num_bands,
        max_frequency=config.max_frequency,
    )
    widths, head = [encoder.out_channels, *config.widths], None
    if num_outputs is None:
        widths.append(1)
    else:
        count = _num_invariants(chain, slots, widths[-1])
        head = perceptron(count, config.head_width, 2, num_outputs, config.dropout)
    stack = EquivariantStack(slots, widths, dropout=config.dropout)
    return EquivariantBody(chain, slots, encoder=encoder, stack=stack, head=head)


def _ends(chain: Chain) -> dict[int, int]:
    """Return the groups of inputs and outputs, with their sizes."""
    return {0: chain.sizes[0], chain.depth: chain.sizes[-1]}


def _num_invariants(chain: Chain, slots: Sequence[Slot], channels: int) -> int:
    """Return how many numbers `invariants` finds."""
    has = [place is not None for place in chain.places()]
    pairs = zip(slots, has, strict=True)
    return channels * sum(slot.copies for slot, is_there in pairs if is_there)
