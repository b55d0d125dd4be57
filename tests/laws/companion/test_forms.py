"""Fans of dense edges compute what PyTorch Geometric computes edge by edge."""

import pytest
import torch
from torch_geometric.data import Batch

from l2o.companion import NetworkClassifier, collate_networks
from l2o.companion.pyg import PyGClassifier


def both_forms(model, graphs, params):
    """Return logits and gradients of both forms."""
    other = PyGClassifier(model)
    data = [other.to_data(*pair) for pair in zip(graphs, params, strict=True)]
    weights = list(model.parameters())
    found = []
    for logits in (
        model(collate_networks(graphs, params)),
        other(Batch.from_data_list(data)),
    ):
        loss = logits.square().sum()
        found.append((logits, torch.autograd.grad(loss, weights)))
    return found


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_on_differing_cnns(is_reversed, scale, ng_gnn, build, park, gap):
    graphs, params, sizes = park
    model = build(
        NetworkClassifier,
        ng_gnn,
        **sizes,
        reversed_edges=is_reversed,
        fourier_scale=scale,
        num_frequencies=16,
    )
    (found, grads), (expected, wanted) = both_forms(model, graphs, params)
    assert gap(found, expected) < 1e-9
    for grad, want in zip(grads, wanted, strict=True):
        scale = max(float(want.abs().max()), 1.0)
        torch.testing.assert_close(grad, want, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("backbone", ["ng_gnn", "ng_gnn residual"], indirect=True)
def test_on_mlps(backbone, build, mlps, gap):
    graph, params, sizes = mlps(2)
    model = build(NetworkClassifier, backbone, **sizes, reversed_edges=True)
    singles = [
        {name: value[index] for name, value in params.items()} for index in range(4)
    ]
    (found, _), (expected, _) = both_forms(model, [graph] * 4, singles)
    assert gap(found, expected) < 1e-9


def test_the_law_can_fail(ng_gnn, build, park, gap):
    graphs, params, sizes = park
    model = build(NetworkClassifier, ng_gnn, **sizes)
    other = PyGClassifier(model)
    other.convs[1].typical_log_degree *= 1.01
    data = [other.to_data(*pair) for pair in zip(graphs, params, strict=True)]
    found = other(Batch.from_data_list(data))
    assert gap(found, model(collate_networks(graphs, params))) > 1e-6


def test_it_takes_what_it_can_mirror(backbone, build, mlps):
    _, _, sizes = mlps(2)
    is_apart = backbone.kind == "ng_gnn"
    model = build(NetworkClassifier, backbone, **sizes, linear_as_conv=not is_apart)
    with pytest.raises(ValueError, match="Use the model itself"):
        PyGClassifier(model)
