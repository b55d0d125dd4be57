"""A network's answer does not depend on who else is in the batch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o.companion import (
    NetworkClassifier,
    NetworkEditor,
    NetworkPredictor,
    collate_networks,
    stack_networks,
    transformer_backbone,
)

TOLERANCE = 1e-9


def answers_alone(model, graphs, params):
    return torch.cat(
        [
            model(collate_networks([graph], [own]))
            for graph, own in zip(graphs, params, strict=True)
        ]
    )


@pytest.mark.parametrize("pooling", ["outputs", "mean", "max", "last_mean", "last_max"])
def test_alone_equals_in_company(pooling, backbone, build, park, gap):
    graphs, params, sizes = park
    model = build(NetworkClassifier, backbone, pooling=pooling, **sizes)
    together = model(collate_networks(graphs, params))
    assert gap(together, answers_alone(model, graphs, params)) < TOLERANCE


def test_with_every_front_end(backbone, switches, build, park, gap):
    graphs, params, sizes = park
    model = build(NetworkPredictor, backbone, **sizes, **switches).classifier
    together = model(collate_networks(graphs, params))
    assert gap(together, answers_alone(model, graphs, params)) < TOLERANCE


def test_the_order_of_the_batch_is_the_order_of_the_answers(backbone, build, park, gap):
    graphs, params, sizes = park
    graphs, params = [*graphs, graphs[0]], [*params, params[1] | params[0]]
    params[-1] = {name: -value for name, value in params[0].items()}
    model = build(NetworkClassifier, backbone, **sizes)
    answers = model(collate_networks(graphs, params))
    order = [6, 2, 0, 5, 4, 1, 3]
    mixed = model(
        collate_networks([graphs[i] for i in order], [params[i] for i in order])
    )
    assert gap(mixed, answers[order]) < TOLERANCE
    parts = collate_networks(graphs, params).split(3)
    assert gap(torch.cat([model(part) for part in parts]), answers) < TOLERANCE


def test_edits_split_like_the_batch(backbone, build, mlps, gap):
    graph, params, sizes = mlps(2)
    model = build(NetworkEditor, backbone, **sizes, reversed_edges=True)
    batch = stack_networks(graph, params)
    whole, parts = model(batch), [model(part) for part in batch.split(3)]
    for name, expected in whole.items():
        assert gap(torch.cat([part[name] for part in parts]), expected) < TOLERANCE


def test_gradients_are_sums_over_networks(backbone, build, park):
    graphs, params, sizes = park
    model = build(NetworkClassifier, backbone, **sizes)
    weights = list(model.parameters())

    def gradients(graphs, params):
        loss = model(collate_networks(graphs, params)).square().sum()
        return torch.autograd.grad(loss, weights)

    whole = gradients(graphs, params)
    halves = [gradients(graphs[:2], params[:2]), gradients(graphs[2:], params[2:])]
    for found, *parts in zip(whole, *halves, strict=True):
        torch.testing.assert_close(found, sum(parts), rtol=1e-9, atol=1e-9)


class TestTheLawCanFail:
    def test_with_a_norm_over_the_batch(self, ng_gnn, build, park, gap):
        """The released code's fault: statistics over all nodes of the batch."""

        class BatchNorm(nn.Module):
            def forward(self, nodes):
                return (nodes - nodes.mean()) / nodes.std()

        graphs, params, sizes = park
        model = build(NetworkClassifier, ng_gnn, **sizes)
        for layer in model.encoder.backbone.layers:
            if layer.norm is not None:
                layer.norm = BatchNorm()
        together = model(collate_networks(graphs, params))
        assert gap(together, answers_alone(model, graphs, params)) > 1e-3

    def test_with_padding_that_is_attended_to(
        self, backbone, build, park, gap, monkeypatch
    ):
        """The released code's other fault."""
        if backbone.kind != "ng_t":
            pytest.skip("only attention pads")
        graphs, params, sizes = park
        model = build(NetworkClassifier, backbone, **sizes)
        layer_type = transformer_backbone.RelationalLayer
        forward = layer_type.forward
        monkeypatch.setattr(
            layer_type,
            "forward",
            lambda layer, nodes, edges, _: forward(layer, nodes, edges),
        )
        together = model(collate_networks(graphs, params))
        assert gap(together, answers_alone(model, graphs, params)) > 1e-3

    def test_dropout_is_what_evaluation_leaves_out(self, ng_gnn, build, park, gap):
        graphs, params, sizes = park
        model = build(NetworkClassifier, replace(ng_gnn, dropout=0.5), **sizes)
        alone = answers_alone(model, graphs, params)
        assert gap(model(collate_networks(graphs, params)), alone) < TOLERANCE
        model.train()
        assert gap(model(collate_networks(graphs, params)), alone) > 1e-3
