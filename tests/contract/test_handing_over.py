"""However parameters are handed over, the same graph is found."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from l2o import NeuralGraphOpt
from optimizees.transformer import GPT, BlockSizes


class Branched(nn.Module):
    """A CNN that no order of its layers makes a chain."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.long, self.short = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.last = nn.Linear(6, 3)

    def forward(self, images):
        found = self.norm(self.stem(images)).relu()
        return self.last((self.long(found) + self.short(found)).mean((2, 3)))


def branched():
    model = Branched()
    return [model], lambda: model(torch.randn(4, 1, 6, 6)).square().mean()


def gpt():
    model = GPT(
        vocabulary=11, context=8, sizes=BlockSizes(width=8, num_blocks=1, num_heads=2)
    )
    return [model], lambda: model(torch.randint(11, (3, 8))).square().mean()


def gan():
    generator = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    critic_loss = lambda: critic(generator(torch.randn(5, 3))).mean()
    return [generator, critic], lambda: critic_loss() + critic(torch.randn(5, 4)).sum()


def as_list(models):
    return [param for model in models for param in model.parameters()]


def as_named_list(models):
    return [
        (f"{index}.{name}", param)
        for index, model in enumerate(models)
        for name, param in model.named_parameters()
    ]


def as_filtered_list(models):
    return [param for param in as_list(models) if param.requires_grad]


def by_number_of_axes(models):
    params = as_list(models)
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def by_submodule(models):
    return [
        {"params": part.parameters(recurse=False)}
        for model in models
        for part in model.modules()
        if list(part.parameters(recurse=False))
    ]


def as_chain(models):
    return itertools.chain(*(model.parameters() for model in models))


WAYS = (
    *(as_list, as_named_list, as_filtered_list),
    *(by_number_of_axes, by_submodule, as_chain),
)


def graph_of(optimizer, loss_of):
    loss_of().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    return optimizer.graph


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [branched, gpt, gan])
def test_everything_is_placed(rule, build, way):
    models, loss_of = build()
    graph = graph_of(NeuralGraphOpt(way(models), rule=rule), loss_of)
    assert graph.source.startswith("trace of")
    assert graph.placed_share == 1


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_is_that_of_the_generator(rule, way):
    (model,), loss_of = branched()
    graph = graph_of(NeuralGraphOpt(way([model]), rule=rule), loss_of)
    expected = graph_of(NeuralGraphOpt(model.parameters(), rule=rule), loss_of)
    joined = [(b.source.group, b.target.group, b.view) for b in graph.blocks]
    for block in expected.blocks:
        assert (block.source.group, block.target.group, block.view) in joined


@pytest.mark.parametrize("way", WAYS)
def test_without_a_call_nothing_is_claimed(rule, way):
    """The control: shapes alone cannot place a branched network."""
    (model,), _ = branched()
    optimizer = NeuralGraphOpt(way([model]), rule=rule)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    with pytest.warns(UserWarning, match="does not continue"):
        optimizer.step()
    assert optimizer.graph.placed_share < 0.8


@pytest.mark.parametrize("way", WAYS)
def test_a_replica(rule, way, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        (model,), _ = branched()
        replica = DistributedDataParallel(model)
        graph = graph_of(
            NeuralGraphOpt(way([replica]), rule=rule),
            lambda: replica(torch.randn(4, 1, 6, 6)).square().mean(),
        )
    finally:
        torch.distributed.destroy_process_group()
    assert graph.source == "trace of Branched"
    assert graph.placed_share == 1


@pytest.mark.parametrize("way", WAYS)
def test_under_accelerate(rule, accelerate, way):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    (model,), _ = branched()
    optimizer = NeuralGraphOpt(way([model]), rule=rule)
    wrapped, driven = accelerator.prepare(model, optimizer)
    accelerator.backward(wrapped(torch.randn(4, 1, 6, 6)).square().mean())
    driven.step()
    assert optimizer.graph.source == "trace of Branched"
    assert optimizer.graph.placed_share == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("calls_itself", [False, True])
def test_under_lightning(rule, lightning, way, calls_itself, tmp_path):
    class Wrapper(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Branched()

        def forward(self, images):
            return self.network(images)

        def training_step(self, images, _):
            return (self if calls_itself else self.network)(images).square().mean()

        def configure_optimizers(self):
            return NeuralGraphOpt(way([self]), rule=rule)

    module = Wrapper()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on data loaders
        trainer.fit(module, torch.utils.data.DataLoader(torch.randn(4, 1, 6, 6), 4))
    graph = module.optimizers().optimizer.graph
    assert graph.source == f"trace of {'Wrapper' if calls_itself else 'Branched'}"
    assert graph.placed_share == 1
