"""Small models of other kinds whose steps are timed."""

import torch
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """A two-layer LSTM over characters."""

    def __init__(self, characters: int = 256, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 128)
        self.lstm = nn.LSTM(128, width, 2, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of the next character, `[batch, position, character]`."""
        return self.head(self.lstm(self.embedding(tokens))[0])


class TwoTables(nn.Module):
    """Two embedding tables and a linear map, as recommenders have them."""

    def __init__(self, rows: int = 20_000, width: int = 16) -> None:
        super().__init__()
        self.users = nn.Embedding(rows, width)
        self.items = nn.Embedding(rows, width)
        self.head = nn.Linear(2 * width, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        """Return scores, `[batch, 2]`, for pairs of row numbers."""
        users, items = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        return self.head(torch.cat([users, items], dim=-1))


def encoder(width: int = 256, layers: int = 4) -> nn.Module:
    """Return a transformer encoder over vectors, with a score per channel."""
    blocks = [
        nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        for _ in range(layers)
    ]
    return nn.Sequential(*blocks)
