"""The tasks of the paper, by name."""

from functools import partial
from typing import Literal, assert_never

from optimizees.cnn import cifar_cnn, fashion_cnn
from optimizees.data.images import ImageData
from optimizees.mlp import MLP
from optimizees.task import Task

TaskName = Literal["fashion-cnn", "fashion-mlp", "cifar-cnn"]


def build_task(name: TaskName, data: ImageData, batch_size: int) -> Task:
    """Build one of the named tasks on `data`.

    Args:
        name: "fashion-cnn" (the paper's training task), "cifar-cnn" (its test task)
            or "fashion-mlp" (one hidden layer of 32 neurons; its inputs are as many
            as the data has pixels).
        data: the training images.
        batch_size: images per batch; the paper takes 128.

    Returns:
        The task, on the data's device.

    Raises:
        ValueError: if the data has another number of channels than the network.

    Reference: Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        section 4.3. The MLP is ours.
    """
    channels, height, width = data.images.shape[1:]
    expected = 3 if name == "cifar-cnn" else 1
    if channels != expected:
        raise ValueError(
            f"build_task needs images of {expected} channel(s) for {name!r}; got "
            f"{channels} from {data.source}. Pass the data that the task is named for."
        )
    match name:
        case "fashion-cnn":
            return Task(name, fashion_cnn, data, batch_size)
        case "fashion-mlp":
            widths = (channels * height * width, 32, 10)
            return Task(name, partial(MLP, widths), data, batch_size)
        case "cifar-cnn":
            return Task(name, cifar_cnn, data, batch_size)
        case _:
            assert_never(name)
