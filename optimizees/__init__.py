"""What is optimised: networks, their data, and tasks that join the two.

Plain PyTorch: nothing here knows about learned optimizers.
"""

from optimizees.cnn import ConvNet, cifar_cnn, fashion_cnn
from optimizees.data import ImageData, load_cifar10, load_fashion_mnist, locate
from optimizees.families import build_task
from optimizees.mlp import MLP
from optimizees.task import Batch, BatchSampler, Evaluation, Task

__all__ = [
    "MLP",
    "Batch",
    "BatchSampler",
    "ConvNet",
    "Evaluation",
    "ImageData",
    "Task",
    "build_task",
    "cifar_cnn",
    "fashion_cnn",
    "load_cifar10",
    "load_fashion_mnist",
    "locate",
]
