"""Fine-tuning: a backbone that knows five classes, a new head for the other five.

The first convolution is frozen, the second trains at a low rate, the head at the full
rate.
"""

import torch
from compare import compare
from torch import nn
from torch.nn import functional

from l2o import NeuralGraphOpt
from optimizees import ImageData, load_fashion_mnist


def classes(data: ImageData, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of five classes, and their labels counted from 0."""
    chosen = (data.labels >= first) & (data.labels < first + 5)
    return data.images[chosen], data.labels[chosen] - first


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[torch.Tensor, torch.Tensor],
    steps: int,
) -> list[float]:
    """Train on batches of 64; return the loss of each step."""
    losses: list[float] = []
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (64,))
        images, labels = data[0][chosen], data[1][chosen]
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train(optimizer_name: str, steps: int) -> tuple[list[float], str]:
    """Return the losses of the fine-tuning and the test accuracy after it."""
    torch.manual_seed(0)
    known = load_fashion_mnist("train")
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(32, 5),
    )
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(model, adam, classes(known, 0), steps)

    model[0].requires_grad_(requires_grad=False)
    model[4] = nn.Linear(32, 5)
    body, head = model[2].parameters(), model[4].parameters()
    if optimizer_name == "Adam":
        groups = [{"params": body, "lr": 3e-3}, {"params": head, "lr": 3e-2}]
        optimizer = torch.optim.Adam(groups)
    else:
        # Rates are relative: 1 is as meta-trained. `model` shows what is frozen too.
        groups = [{"params": body, "lr": 0.1}, {"params": head, "lr": 1.0}]
        optimizer = NeuralGraphOpt(groups, model=model)
    losses = fit(model, optimizer, classes(known, 5), steps)

    images, labels = classes(load_fashion_mnist("test"), 5)
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean()
    return losses, f"test accuracy {accuracy:.1%} on the five new classes"


if __name__ == "__main__":
    compare(train, steps=200)
