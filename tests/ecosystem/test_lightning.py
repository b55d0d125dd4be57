"""Under Lightning, each step is the one that plain PyTorch takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from l2o import PRESETS, NeuralGraphOpt

# Lightning's own habits: few workers, no validation loop, an old name inside torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]

SIZE, BATCHES = 4, 6


@pytest.fixture
def build_module(lightning, random_rule):
    """Build the same two layers each time; settings go to the optimizer."""
    rule = random_rule(PRESETS["default"], dtype=torch.float32)

    class Regression(lightning.LightningModule):
        def __init__(self, **settings):
            super().__init__()
            self.settings = settings
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.network = nn.Sequential(
                    nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)
                )

        def training_step(self, batch, _):
            inputs, targets = batch
            return functional.mse_loss(self.network(inputs), targets)

        def configure_optimizers(self):
            optimizer = NeuralGraphOpt(self.parameters(), rule=rule, **self.settings)
            schedule = StepLR(optimizer, step_size=1, gamma=0.8)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return Regression


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SIZE * BATCHES, 3, generator=generator)
    targets = torch.randn(SIZE * BATCHES, 2, generator=generator)
    return DataLoader(TensorDataset(inputs, targets), SIZE)


@pytest.fixture
def trainer(lightning, tmp_path):
    """Build a trainer that writes only where it is told to."""

    def build(epochs=1, **settings):
        return lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            **settings,
        )

    return build


def train_plainly(module, batches, *, clip=None, accumulate=1):
    """Return the optimizer after one pass."""
    (optimizer,), (schedule,) = module.configure_optimizers()
    for index, batch in enumerate(batches, start=1):
        (module.training_step(batch, index) / accumulate).backward()
        if index % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            schedule["scheduler"].step()
            optimizer.zero_grad()
    return optimizer


def assert_same_weights(module, other):
    for param, expected in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(param, expected)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_its_run_is_the_plain_one(build_module, batches, trainer, clip, accumulate):
    plain = build_module(weight_decay=0.1)
    optimizer = train_plainly(plain, batches, clip=clip, accumulate=accumulate)
    module = build_module(weight_decay=0.1)
    fitted = trainer(gradient_clip_val=clip, accumulate_grad_batches=accumulate)
    fitted.fit(module, batches)
    assert_same_weights(module, plain)
    (own,) = fitted.optimizers
    assert own.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert own.diagnostics().steps == BATCHES // accumulate


def test_a_checkpoint_goes_on_as_if_it_had_not_stopped(
    build_module, batches, trainer, tmp_path
):
    whole = build_module()
    trainer(epochs=2).fit(whole, batches)
    half = trainer()
    half.fit(build_module(), batches)
    half.save_checkpoint(tmp_path / "half.ckpt")

    other = build_module()
    resumed = trainer(epochs=2)
    resumed.fit(other, batches, ckpt_path=tmp_path / "half.ckpt")
    assert_same_weights(other, whole)
    assert resumed.optimizers[0].state[other.network[0].weight]["step"] == 2 * BATCHES
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)  # no pickled code
    assert len(saved["optimizer_states"][0]["state"]) == 4


def test_averaged_weights_are_the_plain_ones(build_module, batches, trainer):
    plain, module = build_module(average=True), build_module(average=True)
    train_plainly(plain, batches).use_average()
    fitted = trainer()
    fitted.fit(module, batches)
    with pytest.raises(AssertionError):
        assert_same_weights(module, plain)
    with fitted.optimizers[0].averaged():
        assert_same_weights(module, plain)


def test_the_comparison_can_fail(build_module, batches, trainer):
    plain, module = build_module(), build_module()
    train_plainly(plain, batches)
    trainer(gradient_clip_val=0.1).fit(module, batches)
    with pytest.raises(AssertionError):
        assert_same_weights(module, plain)
