"""Models of other libraries in their full size, with random weights.

The libraries come with the extra `zoo`; they are imported when a model is built.
"""

import importlib
from types import ModuleType

import torch

_MISSING_OPERATORS = ("nms", "qnms")


def import_torchvision(name: str) -> ModuleType:
    """Import a module that needs torchvision.

    Its wheels are compiled for CUDA. Beside a torch that is not, its operators do not
    load, and the import then stumbles over two of them, which no classifier uses.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _MISSING_OPERATORS:
            library.define(
                f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            )
        _KEPT_ALIVE.append(library)
        return importlib.import_module(name)


_KEPT_ALIVE: list[torch.library.Library] = []
"""An operator's declaration lives as long as the object that made it."""


def from_torchvision(name: str, pixels: int = 64, **settings):
    """A classifier of torchvision, and two images."""
    models = import_torchvision("torchvision.models")
    images = torch.randn(2, 3, pixels, pixels)
    return models.get_model(name, weights=None, **settings), (images,)


def from_timm(name: str, pixels: int = 64, **settings):
    """A classifier of timm, and two images."""
    import_torchvision("torchvision")  # timm does
    timm = importlib.import_module("timm")
    images = torch.randn(2, 3, pixels, pixels)
    return timm.create_model(name, pretrained=False, **settings), (images,)


def from_transformers(model: str, config: str, **settings):
    """A language model of transformers, and two sequences of six tokens."""
    import_torchvision("torchvision")  # transformers does, where it is installed
    transformers = importlib.import_module("transformers")
    built = getattr(transformers, model)(getattr(transformers, config)(**settings))
    tokens = torch.randint(100, (2, 6))
    if built.config.is_encoder_decoder:
        return built, (tokens, None, tokens[:, :4])
    return built, (tokens,)


def gpt2():
    """The smallest GPT-2: 124 million weights."""
    return from_transformers("GPT2LMHeadModel", "GPT2Config", use_cache=False)


def resnet18():
    return from_torchvision("resnet18")
