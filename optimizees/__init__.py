"""What is optimised: networks, their data, and tasks that join the two.

Plain PyTorch: nothing here knows about learned optimizers.
"""

from .attention import ImageTransformer
from .batches import Batch, Batches, BatchSampler, cut
from .cnn import ConvNet, cifar_cnn, fashion_cnn
from .data import ImageData, load_cifar10, load_fashion_mnist, locate
from .data.text import TextData, text_split
from .functional_task import FunctionalTask
from .image_tasks import image_task
from .mlp import MLP
from .named_tasks import TaskName
from .residual import ResidualNet
from .sampling import Family, Problem, build_problem
from .task import (
    ACCURACY,
    CHARACTER_ACCURACY,
    MEAN_SQUARED_ERROR,
    Evaluation,
    Metric,
    Task,
    restoring,
)
from .task_loader import TaskLoader, load_task
from .text_tasks import text_task

__all__ = [
    "ACCURACY",
    "CHARACTER_ACCURACY",
    "MEAN_SQUARED_ERROR",
    "MLP",
    "Batch",
    "BatchSampler",
    "Batches",
    "ConvNet",
    "Evaluation",
    "Family",
    "FunctionalTask",
    "ImageData",
    "ImageTransformer",
    "Metric",
    "Problem",
    "ResidualNet",
    "Task",
    "TaskLoader",
    "TaskName",
    "TextData",
    "build_problem",
    "cifar_cnn",
    "cut",
    "fashion_cnn",
    "image_task",
    "load_cifar10",
    "load_fashion_mnist",
    "load_task",
    "locate",
    "restoring",
    "text_split",
    "text_task",
]
