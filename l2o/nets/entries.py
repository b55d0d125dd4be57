"""What a network reads and writes, tile by tile."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from l2o.graph.tiles import EdgeTile, NodeTile, Tiles


@runtime_checkable
class Entries(Protocol):
    """The entries of all parameters of a graph, laid on tiles.

    A network asks for the features of a tile as often as it likes and answers once, for
    every tile that owns its entries.
    """

    tiles: Tiles
    """The graph in tiles."""
    memory_limit: int | None
    """Bytes that edge states may take; what is beyond is computed again when it is
    needed. None keeps all, writes nothing in place and lets autograd through."""

    def read(self, tile: EdgeTile | NodeTile) -> Tensor:
        """Return the features of a tile's entries.

        Returns:
            `[part, target, source, cell, feature]`, or `[row, cell, feature]`.
        """
        ...

    def write(self, tile: EdgeTile | NodeTile, outputs: Tensor) -> None:
        """Take the network's numbers for a tile, `[..., cell, output]`."""
        ...


def at_owners(values: Tensor, tile: EdgeTile | NodeTile) -> Tensor:
    """Return what the tensor that a tile's entries belong to says, for each of them.

    Args:
        values: `[tensor, channel]`, in the order of `graph.shapes`.
        tile: whose entries are meant.

    Returns:
        `[part, 1, 1, 1, channel]`, or `[row, 1, channel]`: it broadcasts against what
        `Entries.read` returns.
    """
    own = values.index_select(0, tile.owner)
    return own[:, None, None, None] if isinstance(tile, EdgeTile) else own[:, None]
