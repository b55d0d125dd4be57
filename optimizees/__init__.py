"""What is optimised: networks, their data, and tasks that join the two.

Plain PyTorch: nothing here knows about learned optimizers.
"""

from optimizees.attention import ImageTransformer
from optimizees.cnn import ConvNet, cifar_cnn, fashion_cnn
from optimizees.data import ImageData, load_cifar10, load_fashion_mnist, locate
from optimizees.families import build_task
from optimizees.mlp import MLP
from optimizees.residual import ResidualNet
from optimizees.sampling import Family, Problem, build_problem
from optimizees.task import Batch, BatchSampler, Evaluation, Task

__all__ = [
    "MLP",
    "Batch",
    "BatchSampler",
    "ConvNet",
    "Evaluation",
    "Family",
    "ImageData",
    "ImageTransformer",
    "Problem",
    "ResidualNet",
    "Task",
    "build_problem",
    "build_task",
    "cifar_cnn",
    "fashion_cnn",
    "load_cifar10",
    "load_fashion_mnist",
    "locate",
]
