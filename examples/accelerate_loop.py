"""Under Hugging Face accelerate: bfloat16, accumulated gradients, saved and resumed."""

import argparse
import tempfile

import torch
from accelerate import Accelerator
from compare import ends_of
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from l2o import NeuralGraphOpt
from optimizees import load_fashion_mnist


def main() -> None:
    """Train half of the steps, save, overwrite the weights, resume, train the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    data = load_fashion_mnist("train", source="embedded")
    loader = DataLoader(TensorDataset(data.images, data.labels), 64, shuffle=True)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )

    accelerator = Accelerator(
        mixed_precision="bf16", gradient_accumulation_steps=2, cpu=True
    )
    # Where Adam was; it averages the weights for evaluation, too.
    optimizer = NeuralGraphOpt(model.parameters(), average=True)
    scheduler = CosineAnnealingLR(optimizer, steps)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, loader, scheduler
    )

    def train(batches: int) -> list[float]:
        losses: list[float] = []
        while len(losses) < batches:
            for images, labels in loader:
                with accelerator.accumulate(model):
                    loss = functional.cross_entropy(model(images), labels)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
                if len(losses) == batches:
                    break
        return losses

    before = train(steps)
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        with torch.no_grad():
            for param in model.parameters():
                param.zero_()
        optimizer.state.clear()
        accelerator.load_state(folder)
    after = train(steps)
    print(f"loss {ends_of(before)}, saved and resumed, loss {ends_of(after)}")
    images, labels = next(iter(loader))
    with torch.no_grad(), optimizer.optimizer.averaged():
        loss = functional.cross_entropy(model(images), labels)
    print(f"averaged weights: loss {loss.item():.3f} on one batch")
    taken = int(next(iter(optimizer.state.values()))["step"])
    print(f"{2 * steps} batches, {taken} steps, lr {scheduler.get_last_lr()[0]:.2f}")


if __name__ == "__main__":
    main()
