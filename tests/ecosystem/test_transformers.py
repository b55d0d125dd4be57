"""Under the Trainer of transformers, which drives accelerate."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from zoo.third_party import import_torchvision

from l2o import PRESETS, NeuralGraphOpt

STEPS = 6


class Regression(nn.Module):
    """Two layers that compute their own loss, as the Trainer wants it."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.mse_loss(self.net(inputs), labels)}


@pytest.fixture
def run(accelerate, random_rule, tmp_path):
    """Train; return weights and optimizer. Each run keeps its checkpoints."""
    if find_spec("transformers") is None:
        pytest.skip("needs transformers: run `make zoo`")
    import_torchvision("torchvision")  # transformers does
    import transformers

    generator = torch.Generator().manual_seed(1)
    data = [
        {
            "inputs": torch.randn(3, generator=generator),
            "labels": torch.randn(2, generator=generator),
        }
        for _ in range(4 * STEPS)
    ]
    rule = random_rule(PRESETS["default"], dtype=torch.float32)

    def train(**resume):
        model = Regression()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=STEPS,
            save_steps=STEPS // 2,
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        transformers.Trainer(
            model=model,
            args=settings,
            train_dataset=data,
            optimizers=(optimizer, None),
        ).train(**resume)
        return [param.detach() for param in model.parameters()], optimizer

    return train


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:transformers")
def test_it_schedules_saves_and_resumes(run, tmp_path):
    weights, optimizer = run()
    assert optimizer.diagnostics().steps == STEPS
    assert optimizer.param_groups[0]["lr"] == 0  # its own schedule, down to zero
    resumed, other = run(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert other.diagnostics().steps == STEPS // 2
    for param, expected in zip(resumed, weights, strict=True):
        assert torch.equal(param, expected)
