"""What each process of a distributed test does; its assertions fail the test."""

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import multiprocessing, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from l2o import NeuralGraphOpt

SIZE = 2
"""Number of processes."""


def run(worker, folder):
    """Run `worker(folder)` in two processes that talk over gloo."""
    multiprocessing.spawn(_enter, args=(worker, str(folder)), nprocs=SIZE)


def _enter(rank, worker, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE
    )
    try:
        worker(folder)
        dist.barrier()  # none ends while another still needs it
    finally:
        dist.destroy_process_group()


def build_model():
    """A CNN whose five channels and seven neurons two processes cannot halve."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 7),
        nn.Tanh(),
        nn.Linear(7, 3),
    )


def build_sharded():
    model = build_model()
    for layer in (model[0], model[3], model[5]):
        fully_shard(layer)
    return fully_shard(model)


def build_optimizer(model, **settings):
    return NeuralGraphOpt(model.named_parameters(), weight_decay=0.1, **settings)


def train(model, optimizer, numbers, stream=0, spoilt=None):
    """Train on seeded batches; batch `spoilt` holds a NaN."""
    for number in numbers:
        generator = torch.Generator().manual_seed(1000 * stream + number)
        images = torch.randn(4, 1, 6, 6, generator=generator)
        if number == spoilt:
            images[0, 0, 0, 0] = torch.nan
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def train_alone(num_steps):
    """Return the weights of the same run in one process."""
    model = build_model()
    train(model, build_optimizer(model), range(num_steps))
    return model.state_dict()


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(whole(found[name]), tensor, **tolerance)


def are_replicas(model):
    """Whether all processes hold the same weights, bit for bit."""
    flat = torch.cat([param.detach().flatten() for param in model.parameters()])
    found = [torch.empty_like(flat) for _ in range(SIZE)]
    dist.all_gather(found, flat)
    return all(torch.equal(other, flat) for other in found)


def states_of(model, optimizer, options):
    weights, state = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optimizer": state}


def replicas_stay_equal(folder):
    """DistributedDataParallel, each process on its own batches, one of them bad."""
    rank = dist.get_rank()
    model = DistributedDataParallel(build_model())
    optimizer = build_optimizer(model)
    train(model, optimizer, range(5), stream=rank, spoilt=3 if rank == 1 else None)
    assert are_replicas(model)
    seen = optimizer.diagnostics()
    assert (seen.steps, seen.skipped) == (5, 1)
    assert all(param.isfinite().all() for param in model.parameters())

    alone = build_model()
    train(alone, build_optimizer(alone), range(3), stream=rank)
    assert not are_replicas(alone)


def optimizer_states_are_divided(folder):
    """ZeroRedundancyOptimizer: each process optimises a part."""
    # Its import warns, which only the processes of a world tolerate.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(build_model())
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=NeuralGraphOpt, lr=0.5
    )
    before = [param.detach().clone() for param in model.parameters()]
    train(model, optimizer, range(3), stream=dist.get_rank())
    assert are_replicas(model)
    assert 0 < len(optimizer.optim.state) < 6
    for param, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(param, old)
    optimizer.consolidate_state_dict()
    if dist.get_rank() == 0:
        assert len(optimizer.state_dict()["state"]) == 6


def shards_are_the_whole(folder):
    """fully_shard: the run of one process, bit for bit, with a shard of the state."""
    model = build_sharded()
    optimizer = build_optimizer(model)
    train(model, optimizer, range(3))
    assert_same(model.state_dict(), train_alone(3), rtol=0, atol=0)
    for param in model.parameters():
        state = optimizer.state[param]
        assert state["second_moment"].placements == param.placements
        shard = param.to_local().shape
        assert state["second_moment"].to_local().shape == shard
        momenta = len(optimizer.rule.averages.momentum_decays)
        assert state["momenta"].to_local().shape == (momenta, *shard)
        assert not isinstance(state["step"], DTensor)
    assert optimizer.diagnostics().skipped == 0


def averages_are_the_whole(folder):
    """Replicas and shards: averaged weights are those of one process."""
    alone = build_model()
    optimizer = build_optimizer(alone, average=True)
    train(alone, optimizer, range(3))
    latest = {name: item.clone() for name, item in alone.state_dict().items()}
    optimizer.use_average()
    expected = alone.state_dict()

    model = build_sharded()
    optimizer = build_optimizer(model, average=True)
    train(model, optimizer, range(3))
    for param in model.parameters():
        average = optimizer.state[param]["average"]
        assert average.to_local().shape == param.to_local().shape
    with optimizer.averaged():
        assert_same(model.state_dict(), expected, rtol=0, atol=0)
    assert_same(model.state_dict(), latest, rtol=0, atol=0)

    model = DistributedDataParallel(build_model())
    optimizer = build_optimizer(model, average=True)
    train(model, optimizer, range(3))
    with optimizer.averaged():
        assert_same(model.module.state_dict(), expected, rtol=0, atol=0)
        assert are_replicas(model)
    assert_same(model.module.state_dict(), latest, rtol=0, atol=0)


def the_graph_is_traced(folder):
    """Without a word between the processes: one of them may print its optimizer."""
    model = build_sharded()
    optimizer = build_optimizer(model)
    model(torch.ones(1, 1, 6, 6)).sum().backward()
    if dist.get_rank() == 0:
        assert "trace of" in repr(optimizer)
    optimizer.step()
    alone = build_model()
    expected = build_optimizer(alone)
    alone(torch.ones(1, 1, 6, 6)).sum().backward()
    assert optimizer.graph.blocks == expected.graph.blocks
    assert optimizer.graph.placed_share == 1.0
    train(model, optimizer, range(1))


def checkpoints_go_on(folder):
    """torch.distributed.checkpoint, sharded, whole and flat, into sharded models."""
    model = build_sharded()
    optimizer = build_optimizer(model)
    train(model, optimizer, range(2))
    expected = train_alone(4)
    for name in ("sharded", "full_state_dict", "flatten_optimizer_state_dict"):
        options = StateDictOptions(**{name: True} if name != "sharded" else {})
        place = f"{folder}/{name}"
        dcp.save(states_of(model, optimizer, options), checkpoint_id=place)
        other = build_sharded()
        for param in other.parameters():
            nn.init.zeros_(param)
        resumed = build_optimizer(other)
        loaded = states_of(other, resumed, options)
        dcp.load(loaded, checkpoint_id=place)
        set_state_dict(
            other,
            resumed,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optimizer"],
            options=options,
        )
        train(other, resumed, range(2, 4))
        assert_same(other.state_dict(), expected, rtol=0, atol=0)


def whole_checkpoints_move_between_worlds(folder):
    """A file of one process goes on in a sharded run, and back."""
    alone = build_model()
    optimizer = build_optimizer(alone)
    train(alone, optimizer, range(2))
    sharded = build_sharded()
    train(sharded, trained := build_optimizer(sharded), range(2))
    fresh = build_optimizer(sharded)
    fresh.load_state_dict(optimizer.state_dict())
    train(sharded, fresh, range(2, 4))
    assert_same(sharded.state_dict(), train_alone(4), rtol=0, atol=0)
    back = build_optimizer(alone)
    back.load_state_dict(trained.state_dict())
    train(alone, back, range(2, 4))
    assert_same(alone.state_dict(), train_alone(4), rtol=0, atol=0)


def layers_are_split_too(folder):
    """Tensor parallelism under fully_shard: rounding of the model itself remains."""
    mesh = init_device_mesh("cpu", (1, SIZE), mesh_dim_names=("data", "tensor"))
    results = []
    for is_split in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        if is_split:
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(model, mesh["tensor"], plan)
            fully_shard(model, mesh=mesh["data"])
        optimizer = build_optimizer(model)
        for number in range(3):
            generator = torch.Generator().manual_seed(number)
            optimizer.zero_grad()
            model(torch.randn(5, 6, generator=generator)).square().mean().backward()
            optimizer.step()
        results.append(model.state_dict())
    assert_same(*results, rtol=1e-4, atol=1e-6)
