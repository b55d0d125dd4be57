"""Shared by the examples: compare two optimizers and print their losses.

In each example Adam has about the best of four learning rates (1e-3, 3e-3, 1e-2, 3e-2;
groups scaled alike) over the example's own number of steps, tried once with one seed.
The careful comparison is in `benchmarks/`.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import fmean

OPTIMIZERS = ("Adam", "NeuralGraphOpt")


def compare(
    train: Callable[[str, int], tuple[list[float], str]], *, steps: int
) -> None:
    """Train with each optimizer; print the loss at both ends and the final score.

    Args:
        train: takes the optimizer's name and the number of steps; returns the loss of
            each step, and what else there is to say.
        steps: unless the command line has `--steps`.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--steps", type=int, default=steps)
    steps = parser.parse_args().steps
    print(f"{steps} steps each; the loss is the mean of the first and the last tenth")
    for name in OPTIMIZERS:
        losses, score = train(name, steps)
        print(f"{name:14}  loss {ends_of(losses)}  {score}", flush=True)


def ends_of(losses: list[float]) -> str:
    """Return the mean of the first and of the last tenth, as text with an arrow."""
    tenth = max(len(losses) // 10, 1)
    return f"{fmean(losses[:tenth]):.3f} -> {fmean(losses[-tenth:]):.3f}"
