"""Under Lightning: `configure_optimizers`, a scheduler, clipping, resuming."""

import argparse
import tempfile
from typing import Any

import pytorch_lightning as pl
import torch
from compare import ends_of
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from l2o import NeuralGraphOpt
from optimizees import load_fashion_mnist


class Classifier(pl.LightningModule):
    """A small CNN that remembers its losses."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.losses: list[float] = []
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of one batch."""
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the learned optimizer and a schedule of its relative rate."""
        ours = NeuralGraphOpt(self.network.parameters(), average=True)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(ours, self.steps)
        return {
            "optimizer": ours,
            "lr_scheduler": {"scheduler": plan, "interval": "step"},
        }


def main() -> None:
    """Train half of the steps, then continue from the checkpoint with a new trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    pl.seed_everything(0, verbose=False)
    data = load_fashion_mnist("train", source="embedded")
    loader = DataLoader(TensorDataset(data.images, data.labels), 64, shuffle=True)
    settings: dict[str, Any] = {"accelerator": "cpu", "gradient_clip_val": 1.0}
    noise = ("logger", "enable_progress_bar", "enable_model_summary")
    settings |= dict.fromkeys(noise, False)
    with tempfile.TemporaryDirectory() as folder:
        settings["default_root_dir"] = folder
        half, whole = Classifier(2 * steps), Classifier(2 * steps)
        trainer = pl.Trainer(max_steps=steps, **settings)
        trainer.fit(half, loader)
        trainer.save_checkpoint(f"{folder}/half.ckpt")
        trainer = pl.Trainer(max_steps=2 * steps, **settings)
        trainer.fit(whole, loader, ckpt_path=f"{folder}/half.ckpt")
    first, last = half.losses, whole.losses
    print(f"loss {ends_of(first)}, saved and resumed, loss {ends_of(last)}")
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, NeuralGraphOpt)
    with optimizer.averaged(), torch.no_grad():
        found = functional.cross_entropy(whole.network(data.images), data.labels)
    taken = int(next(iter(optimizer.state.values()))["step"])
    print(f"averaged weights: loss {found:.3f}")
    print(f"{len(first + last)} batches, {taken} steps")


if __name__ == "__main__":
    main()
