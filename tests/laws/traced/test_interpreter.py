"""A traced graph says enough to compute the network from it alone."""

import copy
from dataclasses import replace

import pytest
import torch
from zoo.interpreter import compute

COMPUTED = (
    *("mlp", "mlp_without_biases", "siren", "tied_autoencoder", "paper_cnn"),
    *("paper_cnn_with_flattened_head", "lenet", "vgg", "grouped_and_dilated"),
    *("transposed", "conv3d", "cifar_resnet8", "mobilenet", "shufflenet"),
    *("wild_park_2", "wild_park_5", "wild_park_11", "wild_park_23"),
)
"""Perceptrons, convolutional networks and residual ones. A graph does not say which of
a group's operations come before a reader that skips some, so it cannot compute, for
example, a residual sum before an activation that others read behind."""


def assert_computes(subject, graph=None):
    """Batch norms use the statistics of the batch: a graph knows no buffers."""
    graph = subject.graph if graph is None else graph
    model = copy.deepcopy(subject.model).train()
    with torch.no_grad():
        expected = model(*subject.inputs).flatten()
    outputs = compute(graph, subject.params, subject.inputs)
    found = torch.cat([out.flatten() for out in outputs])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", COMPUTED)
def test_the_graph_computes_what_the_network_computes(name, small_named):
    assert_computes(small_named(name))


class TestTheLawCanFail:
    def test_without_a_residual(self, small_named):
        subject = small_named("cifar_resnet8")
        for index in range(len(subject.graph.ties)):
            ties = subject.graph.ties[:index] + subject.graph.ties[index + 1 :]
            with pytest.raises(AssertionError):
                assert_computes(subject, replace(subject.graph, ties=ties))

    def test_without_an_activation(self, small_named):
        subject = small_named("lenet")
        groups = list(subject.graph.groups)
        assert groups[1].operations
        groups[1] = replace(groups[1], operations=groups[1].operations[:-1])
        with pytest.raises((AssertionError, RuntimeError)):
            assert_computes(subject, replace(subject.graph, groups=tuple(groups)))

    def test_with_pixels_before_channels(self, small_named):
        subject = small_named("paper_cnn_with_flattened_head")
        *rest, last = subject.graph.blocks
        part, target, source, cell = last.view.strides
        _, _, channels, pixels = last.view.shape
        strides = (part, target, 1, channels)
        assert strides != (part, target, source, cell)
        view = replace(last.view, strides=strides)
        assert pixels > 1
        blocks = (*rest, replace(last, view=view))
        with pytest.raises(AssertionError):
            assert_computes(subject, replace(subject.graph, blocks=blocks))
