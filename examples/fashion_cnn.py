"""A small CNN on FashionMNIST: Adam, and NeuralGraphOpt in its place."""

import torch
from compare import compare
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from l2o import NeuralGraphOpt
from optimizees import load_fashion_mnist


class ConvNet(nn.Module):
    """Three convolutions, a mean over the map, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits `[B, 10]` of images `[B, 1, 28, 28]`."""
        hidden = functional.relu(self.first(images))
        hidden = functional.relu(self.second(hidden))
        hidden = functional.relu(self.third(hidden))
        return self.head(hidden.mean((2, 3)))


def train(optimizer_name: str, steps: int) -> tuple[list[float], str]:
    """Return the loss of each step and the test accuracy."""
    torch.manual_seed(0)
    data = load_fashion_mnist("train")  # the embedded subset where the full is not
    model = ConvNet()
    if optimizer_name == "Adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    else:
        optimizer = NeuralGraphOpt(model.parameters())  # the one-line swap

    losses: list[float] = []
    loader = DataLoader(TensorDataset(data.images, data.labels), 128, shuffle=True)
    while len(losses) < steps:
        for images, labels in loader:
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break

    test = load_fashion_mnist("test")
    with torch.no_grad():
        accuracy = (model(test.images).argmax(1) == test.labels).float().mean()
    return losses, f"test accuracy {accuracy:.1%} on {test.source}"


if __name__ == "__main__":
    compare(train, steps=500)
