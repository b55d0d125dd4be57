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
        images, labels = batch
        loss = functional.cross_entropy(self.network(images), labels)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        """Log the loss of one batch."""
        images, labels = batch
        self.log("loss", functional.cross_entropy(self.network(images), labels))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the learned optimizer and a schedule of its relative rate."""
        # Where Adam was; it averages the weights for evaluation, too.
        optimizer = NeuralGraphOpt(self.network.parameters(), average=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def main() -> None:
    """Train half of the steps, then go on from the checkpoint with a new trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    pl.seed_everything(0, verbose=False)
    data = load_fashion_mnist("train", source="embedded")
    loader = DataLoader(TensorDataset(data.images, data.labels), 64, shuffle=True)
    settings: dict[str, Any] = {"accelerator": "cpu", "gradient_clip_val": 1.0}
    settings |= dict.fromkeys(
        ["logger", "enable_progress_bar", "enable_model_summary"], False
    )

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
    with optimizer.averaged():
        (found,) = trainer.validate(whole, loader, verbose=False)
    print(f"averaged weights: loss {found['loss']:.3f}")
    taken = int(next(iter(optimizer.state.values()))["step"])
    print(f"{len(first) + len(last)} batches, {taken} steps")


if __name__ == "__main__":
    main()
