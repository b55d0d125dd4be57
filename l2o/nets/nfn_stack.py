"""A stack of equivariant layers with activations, norms and dropout."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from .nfn_layers import EquivariantLinear, Laid, Pooling, Slot


class EntryNorm(nn.Module):
    """Batch normalisation of every tensor, the entries being the samples.

    While training it couples the networks of a batch; in `eval` it does not.

    Args:
        slots: tensors of the chain.
        channels: per entry.
    """

    def __init__(self, slots: Sequence[Slot], channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in slots)
        self.channels = channels

    def forward(self, laid: Laid) -> Laid:
        """Return the tensors, each channel with mean 0 and variance 1."""
        return [
            None
            if values is None
            else norm(values.reshape(-1, self.channels)).reshape(values.shape)
            for norm, values in zip(self.norms, laid, strict=True)
        ]


class EquivariantStack(nn.Module):
    """Equivariant linear layers with ReLU between them.

    Args:
        slots: of the chain, as `chain_slots` returns.
        channels: per entry, before the first layer and after each.
        pooling: how exchangeable neurons are pooled.
        batch_norm: whether tensors are normalised between the layers.
        dropout: share of the channels that are dropped between the layers.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        channels: Sequence[int],
        *,
        pooling: Pooling = "mean",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.pooling: Pooling = pooling
        self.layers = nn.ModuleList(
            EquivariantLinear(slots, before, after, pooling=pooling)
            for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(
            EntryNorm(slots, count) if batch_norm else nn.Identity()
            for count in channels[1:-1]
        )

    def forward(self, laid: Laid) -> Laid:
        """Return the tensors after the last layer, without an activation.

        Args:
            laid: folded tensors, in the order of the slots.
        """
        first, *others = self.layers
        laid = first(laid)
        for norm, layer in zip(self.norms, others, strict=True):
            laid = layer(self.between(norm(laid)))
        return laid

    def between(self, laid: Laid) -> Laid:
        """Return the tensors after the nonlinearity and the dropout."""
        return [None if values is None else self._between(values) for values in laid]

    def _between(self, values: Tensor) -> Tensor:
        values = values.relu()
        if not self.dropout:
            return values
        return F.dropout(values, self.dropout, self.training)
