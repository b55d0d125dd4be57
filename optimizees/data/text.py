"""English text that comes with every Python, for small language models."""

import copy
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from optimizees.batches import Batch

from .splits import Split, noun_of, split_range


@dataclass(frozen=True, eq=False)
class TextData:
    """A text as numbers, one per character."""

    tokens: Int[Tensor, " N"]
    """Position of each character in the vocabulary, int64."""
    vocabulary: str
    """Every character of the whole text once, sorted."""
    source: str
    """Which text this is, as words to quote with a result."""

    def windows(self, length: int) -> Batch:
        """Return the text cut into pieces, and each piece one character later.

        Args:
            length: characters of a piece.

        Returns:
            Inputs and targets, [piece, length]; an incomplete last piece is left out.

        Raises:
            ValueError: unless there is a whole piece.
        """
        self._check(length)
        num_pieces = (len(self.tokens) - 1) // length
        stop = num_pieces * length
        return Batch(
            self.tokens[:stop].view(num_pieces, length),
            self.tokens[1 : stop + 1].view(num_pieces, length),
        )

    def _check(self, length: int) -> None:
        if not 1 <= length < len(self.tokens):
            raise ValueError(
                f"TextData needs pieces of 1 to {len(self.tokens) - 1} characters; got "
                f"length={length}. Choose a length inside the text."
            )


class TextSampler:
    """Endless batches of pieces that begin anywhere, with replacement.

    Args:
        data: where to draw from.
        batch_size: pieces per batch.
        length: characters of a piece.
        seed: decides every batch; the global generator is never used.

    Raises:
        ValueError: unless the batch is not empty and a piece fits into the text.
    """

    def __init__(self, data: TextData, batch_size: int, length: int, seed: int) -> None:
        data._check(length)
        if batch_size < 1:
            raise ValueError(
                f"TextSampler needs batch_size >= 1; got {batch_size}. Pass 32."
            )
        self.data = data
        self.batch_size = batch_size
        self.length = length
        self._generator = torch.Generator().manual_seed(seed)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "TextSampler":
        """Return this sampler with its text moved; the batches stay the same."""
        found = copy.copy(self)
        found.data = replace(self.data, tokens=move(self.data.tokens))
        return found

    def next(self) -> Batch:
        """Return pieces and the same pieces one character later, [B, length]."""
        starts = torch.randint(
            len(self.data.tokens) - self.length,
            (self.batch_size, 1),
            generator=self._generator,
        )
        places = starts + torch.arange(self.length + 1)
        pieces = self.data.tokens[places.to(self.data.tokens.device, non_blocking=True)]
        return Batch(pieces[:, :-1], pieces[:, 1:])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a new sampler over the same text needs to continue exactly."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where another sampler over the same text stopped."""
        self._generator.set_state(state["generator"].cpu())


def load_manual(split: Split) -> TextData:
    """Load the topics of Python's `help()`: its language reference, as plain text.

    It ships with Python as `pydoc_data.topics`, about half a million characters, and
    differs between versions: `source` names the version.

    Args:
        split: "train" is the first 90 % of the characters, "validation" the next
            5 %, "train+validation" both, "test" the last 5 %.

    Raises:
        ModuleNotFoundError: if this Python came without its documentation.
        ValueError: if the split is unknown.

    Example:
        >>> data = load_manual("train")
        >>> pieces = data.windows(64)
        >>> (pieces.targets[0, :-1] == pieces.inputs[0, 1:]).all().item()
        True
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return text_split(text, split, name=f"manual of Python {platform.python_version()}")


def text_split(text: str, split: Split, *, name: str) -> TextData:
    """Return one part of a text of one's own, as numbers.

    Args:
        text: the whole text, from which the vocabulary is taken.
        split: "train" is the first 90 % of the characters, "validation" the next
            5 %, "train+validation" both, "test" the last 5 %.
        name: which text this is, in words.

    Raises:
        ValueError: if the split is unknown.

    Example:
        >>> text_split("abcabcabca" * 10, "test", name="a song").tokens
        tensor([2, 0, 1, 2, 0])
    """
    part = split_range("text_split", split, len(text), 0.9, 0.95)
    vocabulary = "".join(sorted(set(text)))
    places = {character: place for place, character in enumerate(vocabulary)}
    tokens = torch.tensor([places[character] for character in text])
    return TextData(
        tokens[part],
        vocabulary,
        source=f"{name} ({part.stop - part.start:,} {noun_of(split)} characters)",
    )
