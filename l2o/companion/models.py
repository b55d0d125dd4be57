"""Networks that read trained networks: an answer a network, or an edit of it."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from .batch import NetworkBatch
from .config import CompanionConfig

Evaluate: TypeAlias = Callable[[Mapping[str, Tensor], Tensor], list[Tensor]]
"""Runs stacked networks on shared inputs: `(params, points)` with name to
`[network, *shape]` and `[point, input]` to the values of each neuron group in the
graph's order, inputs and outputs included, `[network, point, neuron]` each."""


class NetworkClassifier(nn.Module):
    """From trained networks to logits, unmoved by the order of their hidden neurons."""

    def __init__(
        self,
        config: CompanionConfig,
        *,
        num_classes: int,
        evaluate: Evaluate | None = None,
    ) -> None: ...

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise weights and biases layer by layer, as these networks have them."""

    def forward(self, batch: NetworkBatch) -> Tensor:
        """Return logits, `[network, class]`."""
        ...


class NetworkPredictor(nn.Module):
    """From trained networks to one number in (0, 1) each, such as their accuracy."""

    def __init__(
        self, config: CompanionConfig, *, evaluate: Evaluate | None = None
    ) -> None: ...

    def fit_statistics(self, batch: NetworkBatch) -> None: ...

    def logits(self, batch: NetworkBatch) -> Tensor:
        """Return what the sigmoid is taken of, `[network]`, for a loss on logits."""
        ...

    def forward(self, batch: NetworkBatch) -> Tensor:
        """Return the predictions, `[network]`."""
        ...


class NetworkEditor(nn.Module):
    """From trained networks to updates of their parameters, neuron by neuron."""

    def __init__(
        self, config: CompanionConfig, *, evaluate: Evaluate | None = None
    ) -> None: ...

    def fit_statistics(self, batch: NetworkBatch) -> None: ...

    def forward(self, batch: NetworkBatch) -> dict[str, Tensor]:
        """Return what is to be added to each parameter, name to `[network, *shape]`."""
        ...
