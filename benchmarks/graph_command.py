"""`l2o graph`: a model's neural graph as a table or a picture."""

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from l2o import neural_graph
from l2o.graph.draw import draw_graph

_INPUT = re.compile(r"(\d+(?:x\d+)*)(?::int(\d+))?")


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
        png: the picture to write (.png, .svg or .pdf) instead of the table.
    """
    torch.manual_seed(0)
    model, inputs = _build_model(factory)
    if input:
        inputs = tuple(_draw_input(text) for text in input)
    found = neural_graph(model, *inputs)
    if png is None:
        print(found.describe())
    else:
        draw_graph(found, png)
        print("Written:", png)


def _build_model(factory: str) -> tuple[nn.Module, Sequence]:
    """Import what `factory` names and call it; return the model and its inputs."""
    module_name, _, name = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
        build = getattr(module, name)
    except (ImportError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(
            "graph needs MODULE:FUNCTION, both importable from here; got "
            f"{factory!r} ({error}). Try optimizees:fashion_cnn."
        ) from error
    finally:
        sys.path.pop(0)
    match build():
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


def _draw_input(text: str) -> Tensor:
    """Return the random tensor that `text` describes."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise ValueError(
            "graph needs inputs such as 1x3x32x32, or 2x16:int100 for integers below "
            f"100; got {text!r}. Write the sizes with an x between them."
        )
    shape = tuple(map(int, match[1].split("x")))
    return (
        torch.randn(shape) if match[2] is None else torch.randint(int(match[2]), shape)
    )
