"""Image data: where it is, how it is read, how it is fetched."""

from optimizees.data.cifar import load_cifar10
from optimizees.data.fashion_mnist import load_fashion_mnist
from optimizees.data.idx import read_idx, write_idx
from optimizees.data.images import ImageData
from optimizees.data.layouts import locate

__all__ = [
    "ImageData",
    "load_cifar10",
    "load_fashion_mnist",
    "locate",
    "read_idx",
    "write_idx",
]
