"""Predict one number per network: the sigmoid of a classifier's only logit."""

from typing import Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from .batch import NetworkBatch


@runtime_checkable
class ReadsNetworks(Protocol):
    """What a predictor needs of a classifier."""

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise as these networks, of the training set, have it."""
        ...

    def __call__(self, batch: NetworkBatch) -> Tensor:
        """Return logits, `[network, class]`."""
        ...


Classifier = TypeVar("Classifier", bound=ReadsNetworks)


class AbstractPredictor(nn.Module, Generic[Classifier]):
    """From trained networks to one number in (0, 1) each, such as their accuracy.

    Args:
        classifier: a module with one class.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise as the classifier's `fit_statistics` does."""
        self.classifier.fit_statistics(batch)

    def logits(self, batch: NetworkBatch) -> Tensor:
        """Return what the sigmoid is taken of, `[network]`, for a loss on logits."""
        return self.classifier(batch)[:, 0]

    def forward(self, batch: NetworkBatch) -> Tensor:
        """Return the predictions, `[network]`."""
        return self.logits(batch).sigmoid()
