"""Rules for operators that work entry by entry."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation, TieKind

from .calls import Call, Found, first_of
from .labels import Codes, Labelled, Labels
from .trace_log import PairedCodes, axes_of
from .tracer import Tracer

_PRODUCTS = ("mul", "div", "multiply", "divide", "true_divide")


def entrywise(tracer: Tracer, call: Call) -> Found:
    """Follow a function of corresponding entries."""
    operands = [call.store.see(tensor) for tensor in call.tensors]
    rank = max(operand.value.dim() for operand in operands)
    return pointwise(tracer, call.operation, operands, rank)


def halves(tracer: Tracer, call: Call) -> Found:
    """Follow `glu`: the product of one half with a function of the other."""
    data = call.given["self"]
    parts = [call.store.see(x) for x in data.chunk(2, call.given["dim"] % data.dim())]
    return pointwise(tracer, Operation(name="mul"), parts, data.dim())


def weight_norm(tracer: Tracer, call: Call) -> Found:
    """Follow the fused form of a weight given by direction and length."""
    pair = [call.see("v"), call.see("g")]
    return first_of(pointwise(tracer, call.operation, pair, len(pair[0].shape)))


def pointwise(
    tracer: Tracer, operation: Operation, operands: Sequence[Labelled], rank: int
) -> Labels:
    """Return the labels of a function of corresponding entries.

    Args:
        tracer: the pass so far.
        operation: what is computed.
        operands: the tensors, in order.
        rank: number of axes of the result.
    """
    operands = [operand.aligned(rank) for operand in operands]
    depends = any(
        not operand.labels.is_plain or operand.labels.depends for operand in operands
    )
    if not any(operand.planes for operand in operands):
        operands = _numbered(tracer, operands)
    if not any(operand.planes for operand in operands):
        codes = _entries(tracer, operands)
        noise = any(operand.labels.noise for operand in operands) and not depends
        return Labels(codes=codes, depends=depends, noise=noise)
    is_product = operation.name in _PRODUCTS
    planes = _joined(tracer, "gate" if is_product else "residual", operands)
    for index, operand in enumerate(operands):
        if operand.codes is not None:
            scales = is_product and (index == 1 or operation.name != "div")
            planes = _attached(tracer, planes, operand.codes, operation, scales)
    values = [operand for operand in operands if operand.labels.is_plain]
    if len(operands) - len(values) == 1 and operation.name not in ("clone", "_to_copy"):
        tracer.note_once(planes, operation)
    return Labels(planes=tuple(planes), depends=True)


def _joined(
    tracer: Tracer, kind: TieKind, operands: Sequence[Labelled]
) -> list[Tensor]:
    """Match the planes of all operands by the axes on which they vary."""
    planes: list[Tensor] = []
    owners: list[set[int]] = []
    is_wide = any(axes_of(plane) for operand in operands for plane in operand.planes)
    for index, operand in enumerate(operands):
        for plane in operand.planes:
            lines = axes_of(plane)
            if is_wide and not lines:  # one neuron is combined with many
                tracer.log.freeze(plane)
                continue
            hits = [
                place
                for place, other in enumerate(planes)
                if (axes_of(other) & lines or not is_wide)
                and index not in owners[place]
            ]
            if not hits:
                planes.append(plane)
                owners.append({index})
                continue
            for place in hits[1:]:
                tracer.log.freeze(planes[place])
            first = hits[0]
            _fill(tracer, planes[first], plane, operands, owners[first], index)
            planes[first] = tracer.joins.cross(kind, planes[first], plane)
            owners[first].add(index)
            for place in reversed(hits[1:]):
                del planes[place], owners[place]
    for plane, members in zip(planes, owners, strict=True):
        for index, operand in enumerate(operands):
            if index not in members and operand.codes is None:
                tracer.admit(plane, operand)
    return planes


def _fill(
    tracer: Tracer,
    first: Tensor,
    second: Tensor,
    operands: Sequence[Labelled],
    members: set[int],
    index: int,
) -> None:
    """Freeze neurons that meet a value without a neuron, unless it is zero."""
    left, right = torch.broadcast_tensors(first, second)
    if bool(((left < 0) != (right < 0)).any()):
        for own, other, which in (
            (left, right, [index]),
            (right, left, list(members)),
        ):
            lonely = (own >= 0) & (other < 0)
            for operand in (operands[number] for number in which):
                if is_nonzero(operand.value, lonely):
                    tracer.log.freeze(torch.where(lonely, own, -1))


def is_nonzero(value: Tensor, where: Tensor) -> bool:
    """Whether values differ from zero somewhere; those unknown here may."""
    if value.is_meta:
        return True
    shape = torch.broadcast_shapes(value.shape, where.shape)
    return bool((value.detach().cpu().expand(shape)[where.expand(shape)] != 0).any())


def _attached(
    tracer: Tracer,
    planes: list[Tensor],
    codes: Codes,
    operation: Operation,
    scales: bool,
) -> list[Tensor]:
    """Lay a parameter on the plane along whose axes it varies."""
    lines = set(codes.axes)
    hits = [place for place, plane in enumerate(planes) if axes_of(plane) & lines]
    if not hits and not lines and len(planes) == 1 and planes[0].numel() == 1:
        hits = [0]
    if len(hits) > 1:
        tracer.log.unplace(codes, "it belongs to neurons of two kinds at once")
        for place in hits:
            tracer.log.freeze(planes[place])
        return planes
    if not hits:
        tracer.log.share(codes, "each of its entries serves all neurons alike")
        return planes
    place = hits[0]
    planes = list(planes)
    planes[place] = tracer.attach(planes[place], codes, operation, scales=scales)
    return planes


def _numbered(tracer: Tracer, operands: Sequence[Labelled]) -> list[Labelled]:
    """Number the values of an unlabelled tensor that meets a parameter: inputs."""
    lines = {
        axis
        for operand in operands
        if operand.codes is not None and not operand.codes.is_summary
        for axis in operand.codes.axes
    }
    found = []
    for operand in operands:
        along = operand.varies_along(sorted(lines)) if lines else ()
        if operand.codes is None and operand.labels.depends and along:
            reader = tuple(
                (other.codes.offset, other.codes.shape, other.codes.strides)
                for other in operands
                if other.codes is not None
            )
            plane = tracer.plain(operand, along[-1:], "inputs", ("entrywise", reader))
            labels = dataclasses.replace(operand.labels, planes=(plane,))
            operand = Labelled(operand.value, labels)
        found.append(operand)
    return found


def _entries(tracer: Tracer, operands: Sequence[Labelled]) -> Codes | None:
    """Return the codes of a function of parameters and constants."""
    shape = torch.broadcast_shapes(*(operand.shape for operand in operands))
    found = [operand.codes for operand in operands if operand.codes is not None]
    if not found:
        return None
    main = max(found, key=lambda codes: (len(codes.axes), not codes.is_summary))
    met = [operand for operand in operands if operand.codes is None]
    if not main.axes and any(operand.labels.depends for operand in met):
        for codes in found:
            tracer.log.share(codes, "each of its entries serves all values alike")
        return None
    if any(operand.varies_along(main.axes) for operand in met):
        tracer.log.freeze_ends(main)
    for other in found:
        if other is not main and not _is_same(main, other):
            _accompany(tracer, main, other)
    return _expanded(main, shape)


def _expanded(codes: Codes, shape: Sequence[int]) -> Codes:
    pairs = zip(codes.strides, codes.shape, strict=False)
    steps = tuple(step if size > 1 else 0 for step, size in pairs)
    return dataclasses.replace(codes, shape=tuple(shape), strides=steps)


def _is_same(main: Codes, other: Codes) -> bool:
    """Whether two operands hold the same entries, or summaries of them."""
    left, right = main.tensor(), other.tensor()
    if other.is_summary and not main.is_summary:
        gone = sorted(axes_of(left) - axes_of(right))
        left = left.amin(gone, keepdim=True) if gone else left
    return left.shape == right.shape and torch.equal(left, right)


def _accompany(tracer: Tracer, main: Codes, other: Codes) -> None:
    """Let `other` go where `main` goes, entry by entry."""
    left, right = main.affine(), other.affine()
    doubtful = main.is_summary or other.is_summary or left is None or right is None
    doubtful |= main.width > 1 or other.width > 1
    if doubtful or tracer.log.parameters_of(main) == tracer.log.parameters_of(other):
        tracer.log.freeze_ends(main)
        tracer.log.unplace(other, "it is combined with another parameter")
        if main.is_summary:
            tracer.log.unplace(main, "it is combined with another parameter")
        return
    assert left is not None
    assert right is not None
    tracer.log.pairs.append(PairedCodes(left, right))
