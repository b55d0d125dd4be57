"""A network of the zoo, in float64 and without special values, beside its graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2o import NeuralGraph, neural_graph
from tests.zoo import Specimen
from tests.zoo.snapshot import everything_about


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network that was traced while it trained, now in evaluation mode."""

    specimen: Specimen
    model: nn.Module
    inputs: tuple
    params: dict[str, Tensor]
    """Copies of its parameters, by name."""
    graph: NeuralGraph
    around: tuple[dict[str, Any], dict[str, Any]]
    """Snapshots just before and just after the trace; empty if none were asked for."""

    def outputs(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return all outputs under other parameters, in one vector.

        They are written into the model: layers that keep their weights in a list of
        their own would not see a functional call's.
        """
        with torch.no_grad():
            self.load(params)
            found = torch.cat([out.flatten() for out in tensors_in(self.call())])
            self.load(self.params)
        return found

    def call(self) -> object:
        """Run the model on its example inputs."""
        return self.model(*self.inputs)

    def load(self, params: Mapping[str, Tensor]) -> None:
        """Write parameters into the model."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(params[name])

    def distance(self, params: Mapping[str, Tensor]) -> float:
        """Return how far other parameters move the outputs, relative to the largest."""
        before = self.outputs(self.params)
        return float((self.outputs(params) - before).abs().max() / before.abs().max())


def prepare(specimen: Specimen, *, with_snapshots: bool = False) -> Prepared:
    """Build a network, make its parameters distinct, and trace it."""
    model, inputs = build_distinct(specimen)
    before = everything_about(model, inputs) if with_snapshots else {}
    graph = neural_graph(model, *inputs)
    after = everything_about(model, inputs) if with_snapshots else {}
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    return Prepared(
        specimen=specimen,
        model=model.eval(),
        inputs=inputs,
        params=params,
        graph=graph,
        around=(before, after),
    )


def build_distinct(specimen: Specimen) -> tuple[nn.Module, tuple]:
    """Build a network in training mode and in float64, with no two entries equal.

    Scales begin at one, shifts at zero, and a permutation of equal entries would show
    nothing: tensors without variation get some.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = specimen.build()
        with torch.no_grad():
            for parameter in model.parameters():
                if bool((parameter == parameter.flatten()[0]).all()):
                    parameter.add_(0.3 * torch.randn(parameter.shape))
    inputs = tuple(
        value.double()
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for value in inputs
    )
    return model.double().train(), inputs


def tensors_in(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors of what a model returns."""
    match output:
        case Tensor():
            if output.is_floating_point():
                yield output
        case Mapping():
            yield from tensors_in(tuple(output.values()))
        case tuple() | list():
            for item in output:
                yield from tensors_in(item)
