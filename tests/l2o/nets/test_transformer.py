"""NG-T's layer against the same in loops over single pairs of nodes."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from l2o.nets.transformer import RelationalConfig, RelationalLayer

SMALL = RelationalConfig(
    node_width=6,
    edge_width=4,
    attention_width=8,
    node_hidden=10,
    edge_hidden=5,
    heads=2,
)
SINGLE = RelationalConfig(
    node_width=8,
    edge_width=8,
    attention_width=8,
    node_hidden=16,
    edge_hidden=16,
    update_hidden=8,
    heads=2,
    scale="head",
    out_projection=False,
    edge_means=True,
)


@pytest.fixture(params=[SMALL, SINGLE], ids=["paper", "single width"])
def config(request):
    return request.param


def build(config, **settings):
    torch.manual_seed(0)
    layer = RelationalLayer(config, **settings).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return layer


def random_graphs(config, count=3, size=5):
    generator = torch.Generator().manual_seed(1)
    shapes = (count, size, config.node_width), (count, size, size, config.edge_width)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    ]


def attend(config, layer, nodes, edges):
    """Equation 5, one pair after the other, for one graph."""
    width, size = config.attention_width, len(nodes)
    w_q, w_k, w_v = layer.of_nodes.weight.split(width)
    u_q, u_k, u_m, u_v = layer.of_edges.weight.split(width)
    narrow = width if config.scale == "width" else width // config.heads
    found = []
    for i in range(size):
        scores, values = [], []
        for j in range(size):
            edge = edges[i, j]
            query = w_q @ nodes[i] + u_q @ edge
            key = w_k @ nodes[j] + u_k @ edge
            product = (query * key).view(config.heads, -1).sum(1)
            scores.append(product / math.sqrt(narrow))
            value = (u_m @ edge) * (w_v @ nodes[j]) + u_v @ edge
            values.append(value.view(config.heads, -1))
        share = torch.softmax(torch.stack(scores), dim=0)[..., None]
        found.append((share * torch.stack(values)).sum(0).flatten())
    return layer.out(torch.stack(found))


def update_edges(layer, nodes, edges):
    """The edges' update, one pair after the other, for one graph."""
    size, update = len(nodes), layer.edge_update
    rows = []
    for i in range(size):
        row = []
        for j in range(size):
            hidden = update.both_ways(torch.cat([edges[i, j], edges[j, i]]))
            hidden = (
                hidden + update.from_source(nodes[i]) + update.from_target(nodes[j])
            )
            if update.means is not None:
                hidden = hidden + update.means[0](edges[i].mean(0))
                hidden = hidden + update.means[1](edges[:, j].mean(0))
            edge = layer.update_norm(edges[i, j] + update.out(F.gelu(hidden)))
            row.append(layer.edge_norm(edge + layer.edge_network(edge)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_it_is_what_loops_over_pairs_compute(config):
    layer = build(config)
    nodes, edges = random_graphs(config)
    found_nodes, found_edges = layer(nodes, edges)
    for index, (own, pairs) in enumerate(zip(nodes, edges, strict=True)):
        attended = attend(config, layer.attention, own, pairs)
        state = layer.attention_norm(own + layer.after_attention(attended))
        state = layer.node_norm(state + layer.node_network(state))
        torch.testing.assert_close(found_nodes[index], state, rtol=1e-9, atol=1e-9)
        expected = update_edges(layer, state, pairs)
        torch.testing.assert_close(found_edges[index], expected, rtol=1e-9, atol=1e-9)


def test_padding_takes_no_part(config):
    layer = build(config)
    nodes, edges = random_graphs(config)
    is_real = torch.tensor([[True, True, True, False, False]]).expand(3, 5)
    padded = layer(nodes, edges, is_real)
    alone = layer(nodes[:, :3], edges[:, :3, :3])
    torch.testing.assert_close(padded[0][:, :3], alone[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(padded[1][:, :3, :3], alone[1], rtol=1e-9, atol=1e-9)
    leaking = layer(nodes, edges)
    assert (leaking[0][:, :3] - alone[0]).abs().max() > 1e-3


def test_a_last_layer_can_leave_the_edges(config):
    layer, short = build(config), build(config, has_edge_update=False)
    nodes, edges = random_graphs(config)
    short.load_state_dict(layer.state_dict(), strict=False)
    found, same = short(nodes, edges)
    assert same is edges
    torch.testing.assert_close(found, layer(nodes, edges)[0], rtol=1e-12, atol=1e-12)
    count = sum(weight.numel() for weight in layer.parameters())
    assert sum(weight.numel() for weight in short.parameters()) < count


def test_dropout_is_for_training():
    layer = build(replace(SMALL, dropout=0.5))
    nodes, edges = random_graphs(SMALL)
    first, second = layer(nodes, edges)[0], layer(nodes, edges)[0]
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(nodes, edges)[0], layer(nodes, edges)[0])


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"heads": 0}, "above zero"),
        ({"update_hidden": 0}, "above zero"),
        ({"heads": 3}, "Choose a divisor"),
        ({"dropout": 1.0}, "below 1, or 0 for none"),
        ({"out_projection": False}, "Set them alike"),
    ],
)
def test_settings_that_cannot_be(settings, advice):
    with pytest.raises(ValueError, match=advice):
        RelationalConfig(**settings)
