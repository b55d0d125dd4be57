import torch
from oracles import AVERAGES
from torch import nn

from l2o import neural_graph
from l2o.graph import NeuralGraph, NeuronGroup, Neurons, View, WeightBlock
from l2o.rule.newton_schulz import whiten
from l2o.rule.whitening import look_ahead, whiten_momenta


class TestMomenta:
    """Which matrices a parameter holds."""

    def found_and_ahead(self, graph):
        generator = torch.Generator().manual_seed(1)
        grads = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in graph.shapes.items()
        }
        state = AVERAGES.advance(AVERAGES.init_state(grads), grads)
        ahead = {name: look_ahead(grads[name], state[name], 1) for name in grads}
        return whiten_momenta(graph, grads, state, AVERAGES), ahead

    def test_one_matrix_a_layer_and_none_a_vector(self):
        graph = neural_graph(
            nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        )
        found, ahead = self.found_and_ahead(graph)
        assert list(found) == ["0.weight", "1.weight", "2.weight"]
        for name, white in found.items():
            torch.testing.assert_close(white, whiten(ahead[name]))

    def test_one_matrix_a_target_or_part(self):
        """Packed projections, and a grouped convolution."""
        shapes = {"packed": (8, 3), "grouped": (4, 2, 3), "depthwise": (4, 1, 3)}
        groups = [
            NeuronGroup(name=name, size=4, role="hidden") for name in ("a", "b", "c")
        ]

        def block(name, source, target, view):
            return WeightBlock(
                parameter=name,
                source=Neurons(0, range(source)),
                target=Neurons(target, range(4)),
                view=view,
            )

        graph = NeuralGraph(
            shapes=shapes,
            groups=tuple(groups),
            blocks=(
                block("packed", 3, 1, View((1, 4, 3), (0, 3, 1), 0)),
                block("packed", 3, 2, View((1, 4, 3), (0, 3, 1), 12)),
                block("grouped", 4, 1, View.contiguous(2, 2, 2, 3)),
                block("depthwise", 4, 1, View.contiguous(4, 1, 1, 3)),
            ),
            node_parameters=(),
        )
        found, ahead = self.found_and_ahead(graph)
        expected = {
            "packed": torch.cat([whiten(half) for half in ahead["packed"].split(4)]),
            "grouped": torch.cat(
                [
                    whiten(half.flatten(1)).unflatten(1, (2, 3))
                    for half in ahead["grouped"].split(2)
                ]
            ),
            "depthwise": whiten(ahead["depthwise"][:, 0])[:, None],
        }
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
