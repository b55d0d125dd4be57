"""Real data that comes inside scikit-learn: a table, a photograph, a graph of digits.

All need the package, which the extra `benchmarks` installs; nothing is downloaded.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from optimizees.batches import Batch

from .splits import Split, split_range

_ORDER_SEED = 0
"""Decides the order that tables and pixels are split in."""

_PHOTOGRAPH_PIXELS = (61, 92)
"""Rows and columns that the photograph is averaged to, a seventh of its own."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and targets of one split."""

    data: Batch
    """All of them, as one batch."""
    source: str
    """Which data this is, as words to quote with a result."""


@dataclass(frozen=True, eq=False)
class DigitGraph:
    """Digits joined to those that look like them."""

    features: Float[Tensor, "N 64"]
    """Grey values of 8 x 8 pixels, from 0 to 1."""
    edges: Int[Tensor, "2 E"]
    """Source and target of each edge, in both directions."""
    labels: Int[Tensor, " N"]
    """The digit, 0 to 9."""


def load_diabetes(split: Split) -> Examples:
    """Load a part of 442 patients: ten measurements, progression a year later.

    Args:
        split: "train" is eight tenths of a fixed random order, "validation" and "test"
            one tenth each, "train+validation" the first nine tenths.

    Returns:
        Inputs `[N, 10]` and targets `[N, 1]`, each column of mean zero and variance one
        over the training split.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
        ValueError: if the split is unknown.

    Reference: Efron et al., 2004, "Least Angle Regression",
        https://doi.org/10.1214/009053604000000067.
    """
    from sklearn import datasets  # extra [benchmarks]

    measured, progression = datasets.load_diabetes(return_X_y=True, scaled=False)
    inputs = torch.as_tensor(measured, dtype=torch.float32)
    targets = torch.as_tensor(progression, dtype=torch.float32)[:, None]
    order = _order(len(inputs))
    train = order[_range(len(inputs), "train")]
    inputs, targets = (
        (item - item[train].mean(0)) / item[train].std(0) for item in (inputs, targets)
    )
    part = order[_range(len(inputs), split)]
    return Examples(Batch(inputs[part], targets[part]), "diabetes of scikit-learn")


def load_photograph(split: Split) -> Examples:
    """Load a part of the pixels of a photograph of a flower.

    Args:
        split: as for `load_diabetes`, of the pixels.

    Returns:
        Coordinates `[N, 2]` from -1 to 1 along the longer side and colours `[N, 3]`
        from 0 to 1.

    Raises:
        ModuleNotFoundError: if scikit-learn or Pillow is not installed.
        ValueError: if the split is unknown.
    """
    from sklearn import datasets  # extra [benchmarks]

    pixels = torch.as_tensor(datasets.load_sample_image("flower.jpg").copy())
    image = pixels.permute(2, 0, 1)[None] / 255
    small = functional.adaptive_avg_pool2d(image, _PHOTOGRAPH_PIXELS)[0]
    rows, columns = _PHOTOGRAPH_PIXELS
    x = torch.linspace(-1, 1, columns)
    y = torch.linspace(-1, 1, rows) * (rows - 1) / (columns - 1)
    down, across = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([across.flatten(), down.flatten()], dim=1)
    part = _order(len(places))[_range(len(places), split)]
    return Examples(
        Batch(places[part], small.flatten(1).T[part]),
        "pixels of a photograph of scikit-learn",
    )


@cache
def load_digit_graph(num_neighbours: int = 8) -> DigitGraph:
    """Load 1,797 handwritten digits, each joined to the digits that look like it.

    Args:
        num_neighbours: how many of the digits with the least Euclidean distance in
            pixels each one is joined to.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    from sklearn import datasets  # extra [benchmarks]

    pixels, digits = datasets.load_digits(return_X_y=True)
    features = torch.as_tensor(pixels, dtype=torch.float32) / 16
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(num_neighbours, largest=False).indices
    ends = torch.arange(len(features)).repeat_interleave(num_neighbours)
    pairs = torch.stack([nearest.flatten(), ends])
    edges = torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1)
    return DigitGraph(features, edges, torch.as_tensor(digits, dtype=torch.int64))


def load_graph_nodes(split: Split) -> Examples:
    """Load a part of the nodes of `load_digit_graph` with their classes.

    Args:
        split: "train", "validation" and "test" are the thirds of the writers' order;
            "train+validation" is the first two.

    Returns:
        Indices of nodes `[N]` and their classes `[N]`.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
        ValueError: if the split is unknown.
    """
    labels = load_digit_graph().labels
    part = split_range("load_graph_nodes", split, len(labels), 1 / 3, 2 / 3)
    nodes = torch.arange(len(labels))[part]
    return Examples(Batch(nodes, labels[nodes]), "graph of the digits of scikit-learn")


def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_ORDER_SEED))


def _range(count: int, split: Split) -> slice:
    """Return the place of a split among examples in random order."""
    return split_range("scikit-learn's data", split, count, 0.8, 0.9)
