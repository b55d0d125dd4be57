"""Populations and networks on networks, trained on a GPU."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from l2o.companion import (
    Classification,
    FitConfig,
    NetworkClassifier,
    NetworkSet,
    evaluate,
    fit,
    inr_classifier,
    layered_graph,
    stack_networks,
)

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from population_runs import make

GRAPH = layered_graph({"a": (32, 2), "b": (32, 32), "c": (1, 32)})


@pytest.mark.parametrize("kind", ["park", "zoo", "fits"])
def test_populations_are_made(gpu, tmp_path, kind):
    changes = {"device": str(gpu)}
    make(kind, tmp_path, **changes, **({} if kind == "fits" else {"networks": 2}))
    paths = sorted(tmp_path.rglob("*.safetensors"))
    assert len(paths) >= 1
    for path in paths:
        values = load_file(path).values()
        assert all(v.isfinite().all() for v in values if v.is_floating_point())


@pytest.mark.parametrize("kind", ["ng_gnn", "ng_t"])
def test_a_companion_is_fitted(gpu, kind):
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(4, *shape, generator=generator)
        for name, shape in GRAPH.shapes.items()
    }
    data = NetworkSet(stack_networks(GRAPH, params), torch.arange(4) % 2)
    scores = []
    for device in (torch.device("cpu"), gpu):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = inr_classifier(kind, width=8, dropout=0.0)
            model = NetworkClassifier(config, num_classes=2)
        fitted = fit(
            model,
            data,
            data,
            Classification(),
            FitConfig(epochs=2, batch_size=4),
            device=device,
        )
        assert next(model.parameters()).device.type == device.type
        found = evaluate(model, data.to(device), Classification())
        scores.append([fitted.epochs[-1].train_loss, found["loss"]])
    torch.testing.assert_close(scores[1], scores[0], rtol=2e-2, atol=1e-3)
