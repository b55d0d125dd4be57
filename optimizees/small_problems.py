"""Small problems of many kinds, made here, on which rules are meta-trained.

They stand for what image classifiers do not show: networks of sines, regression with
noise, sequences, lookup tables, parts that are idle for most batches. Each function
returns one task and takes a seed that decides its data.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from .batches import Batch, BatchSampler, cut
from .data.fashion_mnist import load_fashion_mnist
from .mlp import MLP
from .siren import Siren, pixel_grid
from .task import Task, cross_entropy
from .transformer import GPT, BlockSizes

Criterion: TypeAlias = Callable[[Any, Any], Tensor]

_EXAMPLES = 4096
_HELD_OUT = 1024
_SYMBOLS = 24


def image_fit(seed: int = 0) -> Task:
    """Return the fit of one FashionMNIST image by a network of sines, full batch.

    Args:
        seed: decides which image.
    """
    images = load_fashion_mnist("train").images
    values = images[seed % len(images)].reshape(-1, 1)
    values = (values - values.min()) / (values.max() - values.min())
    data = Batch(pixel_grid(images.shape[-1]), values)
    return Task(
        name=f"image-fit-{seed}",
        build_model=lambda: Siren((2, 64, 64, 1)),
        batches=lambda own: BatchSampler(data, len(values), own),
        criterion=functional.mse_loss,
        held_out={"validation": [data]},
        source="one FashionMNIST image",
    )


def noisy_regression(seed: int = 0) -> Task:
    """Return regression onto a random network with noise in the targets.

    Args:
        seed: decides inputs, targets and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(_EXAMPLES + _HELD_OUT, 12, generator=generator)
    first = torch.randn(12, 24, generator=generator) / 12**0.5
    last = torch.randn(24, 3, generator=generator) / 24**0.5
    targets = (3 * inputs @ first).sin() @ last
    targets = targets + 0.3 * torch.randn(targets.shape, generator=generator)
    return _from_data(
        f"noisy-regression-{seed}",
        lambda: MLP((12, 48, 48, 3)),
        Batch(inputs, targets),
        functional.mse_loss,
        batch_size=16,
    )


class _Reader(nn.Module):
    """Embedding, LSTM and a linear map to the next symbol."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.recur = nn.LSTM(width, width, batch_first=True)
        self.out = nn.Linear(width, symbols)

    @override
    def forward(self, symbols: Tensor) -> Tensor:
        return self.out(self.recur(self.embed(symbols))[0])


def grammar_sequences(seed: int = 0) -> Task:
    """Return next-symbol prediction of a random second-order Markov chain by an LSTM.

    Args:
        seed: decides the chain and the sequences.
    """
    return _from_data(
        f"grammar-sequences-{seed}",
        lambda: _Reader(_SYMBOLS, 32),
        _grammar(seed),
        cross_entropy,
        batch_size=32,
    )


def grammar_transformer(seed: int = 0) -> Task:
    """Return the same prediction by a small transformer with tied embeddings.

    Args:
        seed: decides the chain and the sequences.
    """
    data = _grammar(seed)
    sizes = BlockSizes(width=32, num_blocks=2, num_heads=4)
    return _from_data(
        f"grammar-transformer-{seed}",
        lambda: GPT(_SYMBOLS, data.inputs.shape[1], sizes),
        data,
        cross_entropy,
        batch_size=32,
    )


def _grammar(seed: int) -> Batch:
    """Return sequences of a random second-order Markov chain, and their next symbols.

    Args:
        seed: decides the chain and the sequences.
    """
    length = 17
    generator = torch.Generator().manual_seed(seed)
    logits = 2.5 * torch.randn(_SYMBOLS, _SYMBOLS, _SYMBOLS, generator=generator)
    chances = logits.softmax(-1).view(-1, _SYMBOLS)
    count = _EXAMPLES + _HELD_OUT
    rows = torch.randint(_SYMBOLS, (2, count), generator=generator)
    steps = list(rows)
    while len(steps) < length:
        past = steps[-2] * _SYMBOLS + steps[-1]
        drawn = torch.multinomial(chances[past], 1, generator=generator)
        steps.append(drawn.squeeze(1))
    text = torch.stack(steps, dim=1)
    return Batch(text[:, :-1], text[:, 1:])


class _Pairs(nn.Module):
    """Two lookup tables whose rows' product, with biases, is the prediction."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.left = nn.Embedding(rows, width)
        self.right = nn.Embedding(rows, width)
        self.score = nn.Linear(width, 1)

    @override
    def forward(self, pairs: Tensor) -> Tensor:
        left, right = pairs.unbind(-1)
        return self.score(self.left(left) * self.right(right))


def table_pairs(seed: int = 0) -> Task:
    """Return the completion of a noisy matrix of low rank by two lookup tables.

    Args:
        seed: decides the matrix and which entries are known.
    """
    rows, rank = 200, 4
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator)
    right = torch.randn(rows, rank, generator=generator) / rank**0.5
    pairs = torch.randint(rows, (2 * _EXAMPLES, 2), generator=generator)
    targets = (left[pairs[:, 0]] * right[pairs[:, 1]]).sum(-1, keepdim=True)
    targets = targets + 0.2 * torch.randn(targets.shape, generator=generator)
    return _from_data(
        f"table-pairs-{seed}",
        lambda: _Pairs(rows, 16),
        Batch(pairs, targets),
        functional.mse_loss,
        batch_size=64,
    )


def _from_data(
    name: str,
    build: Callable[[], nn.Module],
    data: Batch,
    criterion: Criterion,
    *,
    batch_size: int,
) -> Task:
    """Return a task on data made here; the last examples are held out."""
    known = Batch(data.inputs[:-_HELD_OUT], data.targets[:-_HELD_OUT])
    kept = Batch(data.inputs[-_HELD_OUT:], data.targets[-_HELD_OUT:])
    return Task(
        name=name,
        build_model=build,
        batches=lambda seed: BatchSampler(known, batch_size, seed),
        criterion=criterion,
        held_out={"validation": cut(kept)},
        source="made by a formula",
    )
