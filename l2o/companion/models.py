"""Networks that read trained networks: to classify, predict or edit them."""

from typing import assert_never

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph

from .batch import NetworkBatch
from .config import CompanionConfig, NGGNNBackboneConfig, NGTBackboneConfig
from .fan_states import LastStates
from .graph_backbone import GraphBackbone
from .network_inputs import NetworkInputs
from .predictor import AbstractPredictor
from .probes import Evaluate
from .reach import parameters_off_the_way
from .readout import EditReadout, Readout
from .running_norm import starting
from .transformer_backbone import TransformerBackbone
from .union_graph import UnionGraph

STARTING = 64
"""Networks from which running norms take their first values."""


class NetworkEncoder(nn.Module):
    """Trained networks to node and edge states: the front end and a backbone.

    Args:
        config: sizes and variants.
        evaluate: how to run the networks on probes; needed where there are any.
        has_last_edges: whether the last edge states are read, too.
    """

    def __init__(
        self,
        config: CompanionConfig,
        *,
        evaluate: Evaluate | None,
        has_last_edges: bool = False,
    ) -> None:
        super().__init__()
        backbone = config.backbone
        self.backbone: GraphBackbone | TransformerBackbone
        match backbone:
            case NGGNNBackboneConfig():
                self.node_width = self.edge_width = backbone.width
                self.backbone = GraphBackbone(backbone)
            case NGTBackboneConfig():
                self.node_width = backbone.layer.node_width
                self.edge_width = backbone.layer.edge_width
                self.backbone = TransformerBackbone(
                    backbone, has_last_edges=has_last_edges
                )
            case _:
                assert_never(backbone)
        self.inputs = NetworkInputs(
            config.inputs,
            node_width=self.node_width,
            edge_width=self.edge_width,
            evaluate=evaluate,
        )

    @torch.no_grad()
    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise weights, biases and states as these networks have them.

        Args:
            batch: the training set. Of its networks, 64 that are spread evenly over it
                say where the running norms of NG-GNN start.
        """
        self.inputs.fit_statistics(batch)
        rows = torch.linspace(0, len(batch) - 1, min(len(batch), STARTING)).long()
        was_training = self.training
        self.eval()
        with starting(self):
            self(batch[rows])
        self.train(was_training)

    def forward(self, batch: NetworkBatch) -> tuple[UnionGraph, LastStates]:
        """Return the neurons and edges, and their last states."""
        encoded = self.inputs(batch)
        return encoded.graph, self.backbone(encoded)


class NetworkClassifier(nn.Module):
    """From trained networks to logits, whatever the order of their hidden neurons.

    Args:
        config: sizes and variants, for example `inr_classifier("ng_t")`.
        num_classes: logits per network.
        evaluate: how to run the networks on probes; needed where there are any.

    Example:
        >>> import torch
        >>> from l2o.companion import inr_classifier, layered_graph, stack_networks
        >>> graph = layered_graph({"a": (32, 2), "b": (32, 32), "c": (1, 32)})
        >>> params = {name: torch.zeros(5, *s) for name, s in graph.shapes.items()}
        >>> model = NetworkClassifier(inr_classifier("ng_gnn"), num_classes=10)
        >>> model(stack_networks(graph, params)).shape
        torch.Size([5, 10])

    Reference:
        Kofinas et al., 2024, https://arxiv.org/abs/2403.12143, section 4.1.
    """

    def __init__(
        self,
        config: CompanionConfig,
        *,
        num_classes: int,
        evaluate: Evaluate | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.encoder = NetworkEncoder(config, evaluate=evaluate)
        self.readout = Readout(
            config.readout,
            config.inputs,
            node_width=self.encoder.node_width,
            num_answers=num_classes,
        )
        self.reads_along_weights = (
            isinstance(config.backbone, NGGNNBackboneConfig)
            and not config.inputs.reversed_edges
            and config.readout.pooling in ("outputs", "last_mean", "last_max")
        )

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise weights, biases and states as these networks have them.

        Args:
            batch: the training set.
        """
        self.encoder.fit_statistics(batch)

    def forward(self, batch: NetworkBatch) -> Tensor:
        """Return logits, `[network, class]`.

        Raises:
            ValueError: if a network does not fit the configured sizes, or has
                parameters that no output depends on.
        """
        if self.reads_along_weights:
            for stack in batch.stacks:
                _check_reach(stack.graph, ties=self.encoder.inputs.config.ties)
        return self.readout(*self.encoder(batch))


class NetworkPredictor(AbstractPredictor[NetworkClassifier]):
    """From trained networks to one number in (0, 1) each, such as their accuracy.

    Args:
        config: sizes and variants, for example `park_predictor("ng_gnn")`.
        evaluate: how to run the networks on probes; needed where there are any.

    Reference:
        Kofinas et al., 2024, section 4.2.
    """

    def __init__(
        self, config: CompanionConfig, *, evaluate: Evaluate | None = None
    ) -> None:
        super().__init__(NetworkClassifier(config, num_classes=1, evaluate=evaluate))
        self.config = config


class NetworkEditor(nn.Module):
    """From trained networks to updates of their parameters, neuron by neuron.

    Args:
        config: sizes and variants, for example `inr_editor("ng_t")`; its `readout` is
            not used.
        evaluate: how to run the networks on probes; needed where there are any.

    Reference:
        Kofinas et al., 2024, section 4.1 ("INR style editing").
    """

    def __init__(
        self, config: CompanionConfig, *, evaluate: Evaluate | None = None
    ) -> None:
        super().__init__()
        if config.inputs.node_channels != 1:
            raise ValueError(
                "NetworkEditor edits one entry per neuron; got node_channels="
                f"{config.inputs.node_channels}. Set node_channels=1."
            )
        self.config = config
        self.encoder = NetworkEncoder(config, evaluate=evaluate, has_last_edges=True)
        self.readout = EditReadout(
            config.inputs,
            node_width=self.encoder.node_width,
            edge_width=self.encoder.edge_width,
        )

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise as `NetworkClassifier.fit_statistics` does."""
        self.encoder.fit_statistics(batch)

    def forward(self, batch: NetworkBatch) -> dict[str, Tensor]:
        """Return what to add to each parameter, name to `[network, *shape]`.

        Raises:
            ValueError: if the networks have several architectures.
        """
        return self.readout(batch, *self.encoder(batch))


def _check_reach(graph: NeuralGraph, *, ties: bool) -> None:
    """Raise if messages along the weights take some parameters to no output."""
    lost = parameters_off_the_way(graph, ties)
    if lost:
        raise ValueError(
            "InputsConfig(reversed_edges=False) reads what leads to the outputs along "
            f"the weights; got {', '.join(lost)}, of which a part does not (queries "
            "and keys end in attention scores). Set reversed_edges=True, or pool all "
            "neurons by ReadoutConfig(pooling='mean')."
        )
