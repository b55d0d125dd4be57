"""Recurrent networks: one layer, used at every position."""

import torch
from torch import Tensor, nn


class Reader(nn.Module):
    """Tokens, a recurrent body, and a class read at all positions together."""

    def __init__(self, body: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.tokens, self.body = nn.Embedding(9, 5), body
        self.head = nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.body(self.tokens(tokens))
        return self.head(hidden.mean(dim=1))


def read(body: nn.RNNBase, width: int):
    return Reader(body, width), (torch.randint(9, (2, 4)),)


def elman():
    return read(nn.RNN(5, 6, batch_first=True), 6)


def lstm():
    return read(nn.LSTM(5, 6, num_layers=2, batch_first=True), 6)


def gru():
    return read(nn.GRU(5, 6, num_layers=2, batch_first=True), 6)


def bidirectional_lstm():
    return read(nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True), 12)


class CellLoop(nn.Module):
    """A cell in a loop that the network writes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 6), nn.Linear(6, 2)

    def forward(self, values: Tensor) -> Tensor:
        state = None
        for step in values.unbind(dim=1):
            state = self.cell(step, state)
        return self.head(state[0])


def lstm_cell_loop():
    return CellLoop(), (torch.randn(2, 4, 3),)


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden = nn.Embedding(9, 6), nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        mean = self.words(tokens).mean(dim=1)
        return self.head(torch.relu(self.hidden(mean)))


def bag_of_words():
    return BagOfWords(), (torch.randint(9, (2, 4)),)
