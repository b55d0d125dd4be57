"""A residual network with normalisation layers on CIFAR-10, with a cosine schedule.

Without CIFAR-10 it says so and trains on the FashionMNIST subset of the library.
"""

from functools import cache

import torch
from compare import compare
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from l2o import NeuralGraphOpt
from optimizees import ImageData, load_cifar10, load_fashion_mnist


class Block(nn.Module):
    """Two normalised convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the next map."""
        inner = self.first_norm(self.first(hidden)).relu()
        return (self.second_norm(self.second(inner)) + self.shortcut(hidden)).relu()


@cache
def load() -> tuple[ImageData, ImageData]:
    """Return training and test images, of CIFAR-10 if it is there."""
    try:
        return load_cifar10("train"), load_cifar10("test")
    except FileNotFoundError as error:
        print(f"{error}\nFashionMNIST takes its place.")
        return load_fashion_mnist("train"), load_fashion_mnist("test")


def train(optimizer_name: str, steps: int) -> tuple[list[float], str]:
    """Return the loss of each step and the test accuracy."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data, test = load()
    model = nn.Sequential(
        *(Block(data.images.shape[1], 16, 2), Block(16, 32, 2), Block(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    ).to(device)
    if optimizer_name == "Adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    else:
        optimizer = NeuralGraphOpt(model.parameters())  # the one-line swap
    scheduler = CosineAnnealingLR(optimizer, steps)

    losses: list[float] = []
    for _ in range(steps):
        chosen = torch.randint(len(data), (64,))
        logits = model(data.images[chosen].to(device))
        loss = functional.cross_entropy(logits, data.labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        guesses = [model(part.to(device)).argmax(1) for part in test.images.split(500)]
    accuracy = (torch.cat(guesses).cpu() == test.labels).float().mean()
    return losses, f"test accuracy {accuracy:.1%} on {test.source}"


if __name__ == "__main__":
    compare(train, steps=300)
