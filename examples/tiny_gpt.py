"""A small transformer that learns to write Python, letter by letter.

The text is the source of one module of Python's own standard library.
"""

import inspect

import torch
from compare import compare
from torch import nn
from torch.nn import functional

from l2o import NeuralGraphOpt

CONTEXT, WIDTH, HEADS, LAYERS = 48, 32, 4, 2


class Block(nn.Module):
    """Causal attention and a multi-layer perceptron, each around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the next residual stream `[B, CONTEXT, WIDTH]`."""
        heads = self.qkv(self.norm(hidden)).unflatten(-1, (3, HEADS, -1))
        q, k, v = heads.transpose(1, 3).unbind(2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + self.project(mixed.transpose(1, 2).flatten(2))
        return hidden + self.down(functional.gelu(self.up(self.mlp_norm(hidden))))


class GPT(nn.Module):
    """Letters in, logits of the next ones out."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, CONTEXT, letters]` for letters `[B, CONTEXT]`."""
        return self.head(self.blocks(self.letters(text) + self.positions))


def train(optimizer_name: str, steps: int) -> tuple[list[float], str]:
    """Return the loss of each step, and one on text left out."""
    torch.manual_seed(0)
    letters = torch.tensor(list(inspect.getsource(inspect).encode("ascii", "ignore")))
    text, kept_back = letters[:-20_000], letters[-20_000:]
    model = GPT(letters=128)
    if optimizer_name == "Adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    else:
        optimizer = NeuralGraphOpt(model.parameters())  # the one-line swap

    def loss_on(part: torch.Tensor) -> torch.Tensor:
        starts = torch.randint(len(part) - CONTEXT, (32,))
        pieces = part.unfold(0, CONTEXT + 1, 1)[starts]
        return functional.cross_entropy(model(pieces[:, :-1]).mT, pieces[:, 1:])

    losses: list[float] = []
    for _ in range(steps):
        loss = loss_on(text)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, f"on text left out {loss_on(kept_back):.3f} nats a letter"


if __name__ == "__main__":
    compare(train, steps=300)
