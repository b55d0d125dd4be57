"""NG-GNN on trained networks, edge by edge, as a user of PyTorch Geometric writes it.

The same network as a `NetworkClassifier` with the same weights and the same numbers,
but its layers run edge by edge (`l2o.nets.pyg_layer`), reversed edges are listed after
the forward ones, and features are written out in full. The fans are checked and timed
against it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import to_dense_batch

from l2o.graph import NeuralGraph, to_pyg
from l2o.graph.layout import pad_cells
from l2o.nets.message_layer import MessageLayer
from l2o.nets.pyg_layer import MessageConv

from .graph_backbone import GraphBackbone
from .models import NetworkClassifier
from .network_inputs import NetworkInputs
from .projection import Projection, waves
from .roles import activation_rows, layer_rows, position_rows

if TYPE_CHECKING:
    from torch_geometric.data import Data


class PyGClassifier(nn.Module):
    """A `NetworkClassifier` over an edge list.

    Args:
        model: NG-GNN without probes, of one node channel, that reads kernels and linear
            layers alike; its weights are shared, not copied.

    Raises:
        ValueError: if the model is another.
    """

    def __init__(self, model: NetworkClassifier) -> None:
        super().__init__()
        self.model = model
        inputs, backbone = model.encoder.inputs, model.encoder.backbone
        is_plain = inputs.probes is None and inputs.linear_in is None
        is_plain = is_plain and inputs.config.node_channels == 1
        is_plain = is_plain and len(inputs.config.kernel) == 2
        if not (isinstance(backbone, GraphBackbone) and is_plain):
            raise ValueError(
                "PyGClassifier takes NG-GNN without probes, with linear_as_conv and "
                f"kernels of two axes; got {type(backbone).__name__} and "
                f"{inputs.config}. Use the model itself."
            )
        self.convs = [
            MessageConv(layer, both_ways=False)
            for layer in backbone.layers
            if isinstance(layer, MessageLayer)
        ]

    def to_data(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> "Data":
        """Return one network as the model reads it, to be put in a `Batch`.

        Args:
            graph: the architecture.
            params: name to `[*shape]`.
        """
        inputs = self.model.encoder.inputs
        config, data = inputs.config, to_pyg(graph, params)
        assert data.edge_index is not None
        assert data.x is not None
        edges = _edge_features(inputs, graph, data)
        data.edge_attr = edges
        if config.reversed_edges:
            none = torch.zeros_like(edges)
            forward = torch.cat([edges, none, edges], dim=1)
            data.edge_attr = torch.cat([forward, torch.cat([none, edges, edges], 1)])
            both = [data.edge_index, data.edge_index.flip(0)]
            data.edge_index = torch.cat(both, dim=1)
        rows = torch.tensor(layer_rows(graph, config))[data.node_group]
        has_bias = data.x.new_zeros(len(rows), 1)
        for node in graph.node_parameters:
            numbers = (data.node_group == node.neurons.group).nonzero()[:, 0]
            has_bias[numbers[torch.tensor(tuple(node.neurons.index))]] = 1.0
        shifted = data.x - inputs.bias_mean[rows, None]
        data.x = shifted / inputs.bias_std[rows, None] * has_bias
        data.position = position_rows(graph, config)
        data.activation = (
            activation_rows(graph, config) if config.activations else data.position
        )
        return data

    def forward(self, batch: "Data") -> Tensor:
        """Return logits, `[network, class]`."""
        inputs = self.model.encoder.inputs
        assert batch.x is not None
        assert batch.edge_attr is not None
        assert batch.batch is not None
        nodes = _project(inputs.node_in, batch.x)
        for table, rows in (
            (inputs.positions, batch.position),
            (inputs.activations, batch.activation),
        ):
            if table is not None:
                nodes = nodes + F.pad(table, (0, 0, 0, 1))[rows]
        edges = [_project(inputs.edge_in, batch.edge_attr)]
        for conv in self.convs:
            nodes, edges = conv(nodes, edges, batch.edge_index)
        is_output = batch.node_type == 2
        outputs, _ = to_dense_batch(nodes[is_output], batch.batch[is_output])
        return self.model.readout.network(outputs.flatten(1))


def _edge_features(inputs: NetworkInputs, graph: NeuralGraph, data: "Data") -> Tensor:
    """Return standardised and centred kernels along the weights, `[edge, cell]`."""
    kernel, rows = inputs.config.kernel, layer_rows(graph, inputs.config)
    assert data.edge_attr is not None
    found = data.edge_attr.new_zeros(len(data.edge_block), kernel[0] * kernel[1])
    centre = kernel[0] // 2 * kernel[1] + kernel[1] // 2
    found[data.edge_block >= len(graph.blocks), centre] = 1.0
    for number, block in enumerate(graph.blocks):
        row, count = rows[block.target.group], block.num_cells
        values = data.edge_attr[data.edge_block == number, :count]
        values = (values - inputs.weight_mean[row]) / inputs.weight_std[row]
        padded = pad_cells(values[None], block.cells, kernel)[0]
        found[data.edge_block == number] = padded
    return found


def _project(projection: Projection, values: Tensor) -> Tensor:
    """Return the first states, map by map."""
    if projection.frequencies is not None:
        values = waves(values, projection.frequencies)
    return projection.second(projection.first(values))
