"""Which matrices of a graph are computed together."""

import math
from collections import defaultdict
from dataclasses import dataclass

from .matrix_pieces import Piece

_PADDED_ENTRIES = 2**16
"""On an accelerator a small matrix may always be padded to this many entries: fewer
stacks are fewer launches."""

_PADDING = 2**13
"""Most entries of padding that a matrix adds to a stack on a CPU, where computing them
costs as much as the operations of another stack."""
_LINE = 16
"""A row or column of padding costs as much as this many entries of padding."""

_LEAST_STACK = 2**22
"""Most entries of a stack on an accelerator; an eighth of all entries if that is
more."""


def padded_groups(pieces: list[Piece], *, is_split: bool) -> list[list[Piece]]:
    """Stack small matrices that are padded to one size.

    Args:
        pieces: of small matrices.
        is_split: whether padding is dearer than further stacks, as on a CPU.
    """
    alike: defaultdict[tuple[object, ...], list[Piece]] = defaultdict(list)
    for piece in pieces:
        alike[piece.key].append(piece)
    found = []
    for group in alike.values():
        shapes = [piece.matrices[0].shape for piece in group]
        order = sorted(range(len(group)), key=lambda place: -math.prod(shapes[place]))
        bins: list[_Bin] = []
        for place in order:
            piece, (rows, columns) = group[place], shapes[place]
            for chosen in bins:
                height, width = max(chosen.height, rows), max(chosen.width, columns)
                count = chosen.count + len(piece.matrices)
                if is_split:
                    before = chosen.cost(chosen.count, chosen.height, chosen.width)
                    own = chosen.cost(len(piece.matrices), rows, columns)
                    padding = chosen.cost(count, height, width) - before - own
                    fits = padding <= _PADDING
                else:  # the piece is the smallest of them
                    fits = height * width <= max(_PADDED_ENTRIES, 2 * rows * columns)
                if fits:
                    chosen.pieces.append(piece)
                    chosen.count, chosen.height, chosen.width = count, height, width
                    break
            else:
                bins.append(_Bin([piece], len(piece.matrices), rows, columns))
        found += [chosen.pieces for chosen in bins]
    return found


@dataclass(slots=True)
class _Bin:
    """Pieces that share a stack, and the size that they are padded to."""

    pieces: list[Piece]
    count: int
    """Matrices of the pieces."""
    height: int
    width: int

    def cost(self, count: int, height: int, width: int) -> int:
        """Return what so many such matrices cost, in entries."""
        has_columns = bool(self.pieces[0].matrices[0].column_neurons)
        num_lines = height + width if has_columns else height
        return count * (height * width + _LINE * num_lines)


def alike_groups(
    pieces: list[Piece], *, is_split: bool, num_entries: int
) -> list[list[Piece]]:
    """Stack large matrices of one shape.

    Args:
        pieces: of large matrices.
        is_split: whether each is computed by itself, as on a CPU.
        num_entries: of all parameters.
    """
    limit = max(_LEAST_STACK, num_entries // 8)
    alike: defaultdict[tuple[object, ...], list[Piece]] = defaultdict(list)
    for piece in pieces:
        alike[*piece.key, piece.matrices[0].shape].append(piece)
    found = []
    for group in alike.values():
        count = 1 if is_split else max(1, limit // group[0].numel)
        while group:
            taken: list[Piece] = [group.pop(0)]
            while group and sum(len(p.matrices) for p in taken) < count:
                taken.append(group.pop(0))
            found.append(taken)
    return found
