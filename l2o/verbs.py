"""The verbs `l2o rules` and `l2o graph`."""

import importlib
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import printable
from .rule_metadata import (
    opened,
    parse_provenance,
    rule_path,
    shipped_rules,
    tensor_shapes,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .graph import NeuralGraph

_INPUT = re.compile(r"([1-9]\d*(?:x[1-9]\d*)*)(?::int([1-9]\d*))?")


def rules() -> None:
    """List the rules that come with the library, and how they were made."""
    for name in shipped_rules():
        print("\n".join(_described(name)))


def graph(
    factory: str, /, *, input: tuple[str, ...] = (), png: Path | None = None
) -> None:
    """Describe the neural graph of a model, or draw it.

    With example inputs the model is run once and traced; without, its graph is what
    the shapes of its parameters can prove.

    Args:
        factory: MODULE:FUNCTION, called without arguments; found from the working
            directory, too. It returns the model, or the model and a tuple of example
            inputs. For example optimizees:fashion_cnn.
        input: shapes of the model's inputs, if the function returns none: 1x3x32x32
            is normal noise, 2x16:int100 are integers below 100.
        png: the picture to write (.png, .svg or .pdf) instead of the table; needs
            matplotlib.
    """
    import torch

    torch.manual_seed(0)
    model, inputs = _build_model(factory)
    if input:
        inputs = tuple(_draw_input(text) for text in input)
    found = _traced(factory, model, inputs)
    if png is None:
        print(found.describe())
        return
    from .graph.draw import draw_graph

    draw_graph(found, png)
    print("Written:", png)


def _described(name: str) -> list[str]:
    """Return the lines about a rule."""
    path = rule_path(name)
    with opened(path, "np") as (file, metadata):
        num_weights = sum(math.prod(shape) for shape in tensor_shapes(file).values())
    config = json.loads(metadata["config"])
    kind = config.get("kind") or config["net"]["kind"]
    facts = parse_provenance(path, metadata)
    return [
        f"{name}: {kind}, {num_weights:,} weights",
        *(
            f"    {key}: {printable(value)}"
            for key, value in facts.items()
            if not isinstance(value, dict | list)
        ),
    ]


def _build_model(factory: str) -> "tuple[nn.Module, Sequence]":
    """Import what `factory` names and call it; return the model and its inputs."""
    from torch import nn

    module_name, _, name = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        build = getattr(importlib.import_module(module_name), name)
        built = build()
    except Exception as error:
        raise ValueError(
            "graph needs MODULE:FUNCTION, importable from here and callable without "
            f"arguments; got {factory!r} ({type(error).__name__}: {error}). Try "
            "optimizees:fashion_cnn."
        ) from error
    finally:
        sys.path.pop(0)
    match built:
        case nn.Module() as model:
            return model, ()
        case (nn.Module() as model, tuple() | list() as inputs):
            return model, inputs
        case found:
            raise TypeError(
                "graph needs a function that returns a torch.nn.Module, alone or with "
                f"a tuple of inputs; got {type(found).__name__} from {factory!r}. "
                "Return the model itself, or (model, inputs)."
            )


def _draw_input(text: str) -> "Tensor":
    """Return the random tensor that `text` describes."""
    import torch

    match = _INPUT.fullmatch(text)
    if match is None:
        raise ValueError(
            "graph needs inputs such as 1x3x32x32, or 2x16:int100 for integers below "
            f"100; got {text!r}. Write positive sizes with an x between them."
        )
    shape = tuple(map(int, match[1].split("x")))
    return (
        torch.randn(shape) if match[2] is None else torch.randint(int(match[2]), shape)
    )


def _traced(factory: str, model: "nn.Module", inputs: Sequence) -> "NeuralGraph":
    """Return the graph of a model; name the inputs where it does not take them."""
    from .graph.build import neural_graph

    try:
        return neural_graph(model, *inputs)
    except Exception as error:
        if not inputs:
            raise
        shapes = ", ".join(
            "x".join(map(str, item.shape)) if hasattr(item, "shape") else repr(item)
            for item in inputs
        )
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"graph needs inputs that the model takes; got {shapes} for {factory!r} "
            f"({type(error).__name__}: {first}). Pass other shapes with --input."
        ) from error
