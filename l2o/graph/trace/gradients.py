"""Labels of gradients that are taken within a forward pass."""

import dataclasses

from torch import Tensor

from .labels import Labelled, Labels
from .trace_log import axes_of
from .tracer import Tracer


def differentiate(tracer: Tracer, output: Labelled, factor: Labelled | None) -> None:
    """Let a gradient be taken of `(factor * output).sum()`."""
    for plane in output.planes:
        lines = axes_of(plane)
        if not lines or (factor is not None and factor.planes):
            tracer.log.freeze(plane)
            continue
        if factor is not None:
            tracer.admit(plane, factor.aligned(plane.dim()))
        tracer.mean(plane, sorted(lines))
    if output.codes is not None and output.codes.axes:
        tracer.log.freeze_ends(output.codes)
    if factor is not None and factor.codes is not None:
        tracer.log.freeze_ends(factor.codes)


def label_gradient(tracer: Tracer, tensor: Labelled, gradient: Tensor) -> None:
    """Give a gradient the labels of the tensor that it is for."""
    ids = [plane[plane >= 0].numpy() for plane in tensor.planes]
    is_fixed = tensor.codes is None and all(tracer.log.frozen[i].all() for i in ids)
    if is_fixed:
        tracer.store.write(gradient, Labels(depends=True))
    elif tensor.shape == tuple(gradient.shape):
        labels = dataclasses.replace(tensor.labels, depends=True, noise=False)
        tracer.store.write(gradient, labels)
    else:
        tracer.lose(tensor, "a gradient for several members at once")
        tracer.store.write(gradient, Labels(depends=True))


def label_gradients(tracer: Tracer) -> None:
    """Label what `backward` has added to the parameters."""
    for parameter in tracer.parameters:
        if parameter.grad is not None:
            label_gradient(tracer, tracer.store.see(parameter), parameter.grad)
