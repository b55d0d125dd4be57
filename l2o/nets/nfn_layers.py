"""Linear maps of a chain's weights that commute with renumbering its neurons.

A neuron group is either *exchangeable* or *told apart*. A tensor of the chain then has
one axis for each exchangeable group that it joins, and everything else about an entry
(kernel cells, neurons that are told apart, features) is channels. Between two such
tensors the linear equivariant maps are these: keep some of the axes that both have,
pool the others of the first, repeat along the others of the second. So a whole layer is
three kinds of matrix: one for what is pooled over everything, one per group for what
belongs to a neuron, and one per weight for what belongs to an edge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Pooling: TypeAlias = Literal["mean", "max"]
Laid: TypeAlias = list[Tensor | None]
"""Weight and bias of each layer in turn, None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One tensor of a chain, as an equivariant layer sees it."""

    groups: tuple[int, ...]
    """Neuron groups that it joins: target and source of a weight, target of a bias."""
    axes: tuple[int, ...]
    """The exchangeable ones among them."""
    inner: tuple[int, ...]
    """Sizes of the others, then the number of cells: what is told apart."""

    @property
    def copies(self) -> int:
        """Entries that are told apart."""
        return prod(self.inner)

    def fold(self, values: Tensor) -> Tensor:
        """Fold kernel cells and distinguished neurons into channels.

        Args:
            values: `[batch, target, source, cell, channel]`, or `[batch, neuron, cell,
                channel]`.

        Returns:
            `[batch, *axes, copies * channel]`.
        """
        return values.permute(self._order(values.ndim)).flatten(1 + len(self.axes))

    def unfold(self, values: Tensor) -> Tensor:
        """Undo `fold`."""
        whole = values.unflatten(-1, (*self.inner, -1))
        order = self._order(whole.ndim)
        return whole.permute([order.index(axis) for axis in range(whole.ndim)])

    def _order(self, count: int) -> list[int]:
        kept = [1 + k for k, group in enumerate(self.groups) if group in self.axes]
        return [0, *kept, *(axis for axis in range(1, count) if axis not in kept)]


def chain_slots(
    num_cells: Sequence[int], told_apart: Mapping[int, int]
) -> tuple[Slot, ...]:
    """Return the slots of a chain: weight and bias of each layer in turn.

    Args:
        num_cells: entries per edge, for each layer.
        told_apart: group (0 for the inputs) to size, for the groups whose neurons are
            not exchangeable.
    """
    slots = []
    for layer, cells in enumerate(num_cells):
        for groups, last in (((layer + 1, layer), cells), ((layer + 1,), 1)):
            fixed = tuple(told_apart[group] for group in groups if group in told_apart)
            slots.append(
                Slot(
                    groups=groups,
                    axes=tuple(group for group in groups if group not in told_apart),
                    inner=(*fixed, last),
                )
            )
    return tuple(slots)


def pool(values: Tensor, axis: int, how: Pooling) -> Tensor:
    """Return the mean or the maximum over one axis."""
    return values.mean(axis) if how == "mean" else values.amax(axis)


def pool_all(slot: Slot, values: Tensor, how: Pooling) -> Tensor:
    """Return `[batch, channel]` from folded `[batch, *axes, channel]`."""
    for axis in reversed(range(1, 1 + len(slot.axes))):
        values = pool(values, axis, how)
    return values


def invariants(slots: Sequence[Slot], laid: Laid, how: Pooling) -> Tensor:
    """Return invariant features, `[batch, copies of all slots * channel]`.

    Args:
        slots: tensors of the chain.
        laid: folded, every tensor present.
        how: pooling over exchangeable neurons.
    """
    pairs = zip(slots, laid, strict=True)
    return torch.cat(
        [pool_all(slot, values, how) for slot, values in pairs if values is not None],
        dim=-1,
    )


class EquivariantLinear(nn.Module):
    """All linear equivariant maps from a chain's tensors to a chain's tensors.

    With `told_apart` empty it is NFN's NP layer (inputs and outputs permute too), with
    inputs and outputs told apart its HNP layer and DWSNet's affine layer. Their many
    sub-blocks, from each weight and bias to each, are here rows of one matrix for the
    whole, one per group and one per weight; every map occurs once.

    Args:
        slots: of the chain, as `chain_slots` returns.
        in_channels: channels per entry of the input.
        out_channels: channels per entry of the output.
        pooling: how exchangeable neurons are pooled; "max" is not linear.

    Reference:
        Zhou et al., 2023, "Permutation Equivariant Neural Functionals",
        https://arxiv.org/abs/2302.14040; Navon et al., 2023, "Equivariant Architectures
        for Learning in Deep Weight Spaces", https://arxiv.org/abs/2301.12780.
        Difference: the released HNP layer gives its last weight no access to the bias
        before it, and pools the first and last weights twice.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        in_channels: int,
        out_channels: int,
        *,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.slots = tuple(slots)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.pooling: Pooling = pooling
        count = sum(slot.copies for slot in slots)
        self.whole = nn.Linear(count * in_channels, count * out_channels)
        self.members = _members(self.slots)
        self.neurons = nn.ModuleDict(
            {
                str(group): _matrix(
                    sum(slots[index].copies for index in members),
                    in_channels,
                    out_channels,
                )
                for group, members in self.members.items()
            }
        )
        self.edges = nn.ModuleDict(
            {
                str(index): _matrix(slot.copies, in_channels, out_channels)
                for index, slot in enumerate(slots)
                if len(slot.axes) == 2
            }
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every weight uniformly, by the number of channels that an entry reads.

        This is the initialisation of one linear layer from all inputs of an entry.
        """
        for slot, own in zip(self.slots, self._rows(self.slots), strict=True):
            pieces = [self.whole.weight[own], self.whole.bias[own]]
            for group in slot.axes:
                members = self.members[group]
                alike = [self.slots[index] for index in members]
                rows = self._rows(alike)[alike.index(slot)]
                pieces.append(_weight(self.neurons[str(group)])[rows])
            if len(slot.axes) == 2:
                pieces.append(_weight(self.edges[str(self.slots.index(slot))]))
            fan_in = sum(piece.shape[1] for piece in pieces if piece.ndim > 1)
            for piece in pieces:
                piece.uniform_(-(fan_in**-0.5), fan_in**-0.5)

    def _rows(self, slots: Sequence[Slot]) -> list[slice]:
        """Return where the outputs of each slot lie, one slot after another."""
        found, start = [], 0
        for slot in slots:
            stop = start + slot.copies * self.out_channels
            found.append(slice(start, stop))
            start = stop
        return found

    def forward(self, laid: Laid) -> Laid:
        """Return the next tensors.

        Args:
            laid: folded tensors `[batch, *axes, copies * in_channels]`, in the order of
                the slots; None for those that the chain lacks, which count as zeros.

        Returns:
            `[batch, *axes, copies * out_channels]`, None where there was none.
        """
        some = next(values for values in laid if values is not None)
        pairs = zip(self.slots, laid, strict=True)
        views = [None if v is None else self._views(slot, v) for slot, v in pairs]
        totals = [
            some.new_zeros(len(some), slot.copies * self.in_channels)
            if view is None
            else view.total
            for slot, view in zip(self.slots, views, strict=True)
        ]
        sizes = [slot.copies * self.out_channels for slot in self.slots]
        shared = self.whole(torch.cat(totals, dim=-1)).split(sizes, dim=-1)
        shares = self._neuron_shares(views)
        return [
            None
            if values is None
            else self._joined(index, values, shared[index], shares)
            for index, values in enumerate(laid)
        ]

    def _views(self, slot: Slot, values: Tensor) -> "_Views":
        """Return a tensor pooled to each of its axes, and over all axes."""
        if len(slot.axes) == 2:
            ends = (pool(values, 2, self.pooling), pool(values, 1, self.pooling))
            on_group = dict(zip(slot.axes, ends, strict=True))
            return _Views(on_group, pool(ends[0], 1, self.pooling))
        total = pool_all(slot, values, self.pooling)
        return _Views(dict.fromkeys(slot.axes, values), total)

    def _neuron_shares(
        self, views: "Sequence[_Views | None]"
    ) -> dict[tuple[int, int], Tensor]:
        """Return what each tensor gets from a group's neurons, by (group, slot)."""
        found = {}
        for group, members in self.members.items():
            seen = [views[index] for index in members]
            present = [view.on_group[group] for view in seen if view is not None]
            if not present:
                continue
            some, slots = present[0], [self.slots[index] for index in members]
            values = [
                some.new_zeros(*some.shape[:2], slot.copies * self.in_channels)
                if view is None
                else view.on_group[group]
                for slot, view in zip(slots, seen, strict=True)
            ]
            sizes = [slot.copies * self.out_channels for slot in slots]
            shares = self.neurons[str(group)](torch.cat(values, dim=-1))
            for index, share in zip(members, shares.split(sizes, dim=-1), strict=True):
                found[group, index] = share
        return found

    def _joined(
        self,
        index: int,
        values: Tensor,
        shared: Tensor,
        shares: Mapping[tuple[int, int], Tensor],
    ) -> Tensor:
        """Return the sum of what a tensor gets from the chain, its neurons, itself."""
        match self.slots[index].axes:
            case ():
                return shared
            case (group,):
                return shared[:, None] + shares[group, index]
            case (target, source):
                own = self.edges[str(index)](values)
                ends = (shared[:, None] + shares[target, index])[:, :, None]
                return own + (ends + shares[source, index][:, None])
            case _:
                raise AssertionError("a weight joins two groups")


@dataclass(frozen=True, slots=True)
class _Views:
    """One tensor, pooled."""

    on_group: dict[int, Tensor]
    """To the neurons of each of its axes: `[batch, neuron, channel]`."""
    total: Tensor
    """Over all of its axes: `[batch, channel]`."""


def _members(slots: Sequence[Slot]) -> dict[int, list[int]]:
    """Return which slots have an axis of each exchangeable group."""
    found: dict[int, list[int]] = {}
    for index, slot in enumerate(slots):
        for group in slot.axes:
            found.setdefault(group, []).append(index)
    return dict(sorted(found.items()))


def _matrix(copies: int, in_channels: int, out_channels: int) -> nn.Linear:
    return nn.Linear(copies * in_channels, copies * out_channels, bias=False)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight
