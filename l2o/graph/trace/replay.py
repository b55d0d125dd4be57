"""One forward pass that leaves no trace in the model."""

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from .hooks import quiet_hooks
from .labels import Labels
from .mode import TraceMode
from .tracer import Tracer


def run_isolated(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tracer_of: Callable[[], Tracer],
) -> Tracer:
    """Run the model once and return what was seen.

    The batch is cut to two samples where every input has the same leading size; if the
    model does not take that, it gets the whole batch.

    Args:
        model: the network, in whatever mode it is.
        args: its positional inputs; left unchanged.
        kwargs: its named inputs; left unchanged.
        tracer_of: makes an empty log.

    Returns:
        The log, the neurons of the outputs frozen.
    """
    leaves, form = pytree.tree_flatten((tuple(args), dict(kwargs)))
    cut = _cut(leaves)
    if cut is not None:
        try:
            return _run(model, cut, form, tracer_of())
        except _REFUSALS:
            pass  # the whole batch tells whether the model itself fails
    return _run(model, leaves, form, tracer_of())


def _run(
    model: nn.Module, leaves: Sequence[Any], form: pytree.TreeSpec, tracer: Tracer
) -> Tracer:
    copies = [x.detach().clone() if isinstance(x, Tensor) else x for x in leaves]
    for copy in copies:
        if isinstance(copy, Tensor):
            tracer.store.write(copy, _INPUT)
    args, kwargs = pytree.tree_unflatten(copies, form)
    with (
        _untouched(model) as protect,
        quiet_hooks(model),
        _plain_kernels(model),
        torch.no_grad(),
        TraceMode(tracer, protect),
    ):
        outputs = model(*args, **kwargs)
    for tensor in _tensors_in(outputs, set()):
        for plane in tracer.store.see(tensor).planes:
            tracer.end(plane)
    return tracer


_INPUT = Labels(depends=True)
_REFUSALS = (
    RuntimeError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AssertionError,
    NotImplementedError,
)
"""What models raise when the batch is not the one they were built for."""


def _cut(leaves: Sequence[Any]) -> list[Any] | None:
    """Return the inputs with two samples, None if there is nothing to cut."""
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    if len(sizes) != 1 or max(sizes) <= 2:
        return None
    return [x[:2] if isinstance(x, Tensor) else x for x in leaves]


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[Callable[[Tensor], None]]:
    """Restore buffers, attributes and random numbers afterwards.

    Yields:
        A function that saves a tensor before it is overwritten.
    """
    saved: dict[int, tuple[Tensor, Tensor]] = {}
    owned = {_address(t) for t in (*model.parameters(), *model.buffers())}

    def protect(tensor: Tensor) -> None:
        key = _address(tensor)
        if key in owned and key not in saved:
            whole = tensor.detach().as_strided(
                (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0
            )
            saved[key] = whole, whole.clone()

    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.numel() and buffer.layout == torch.strided:
                protect(buffer)
    attributes = [(module, _contents(module)) for module in model.modules()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    python = random.getstate()
    try:
        with torch.random.fork_rng(devices=[d for d in devices if d is not None]):
            yield protect
    finally:
        random.setstate(python)
        for module, contents in attributes:
            _restore(module, contents)
        with torch.no_grad():
            for whole, copy in saved.values():
                whole.copy_(copy)


_Contents = dict[str, Any]


def _contents(module: nn.Module) -> _Contents:
    """Return a module's attributes, its own dictionaries and lists copied."""
    return {
        key: (value, value.copy() if isinstance(value, dict | list | set) else None)
        for key, value in vars(module).items()
    }


def _restore(module: nn.Module, contents: _Contents) -> None:
    own = vars(module)
    for key in own.keys() - contents.keys():
        del own[key]
    for key, (value, copy) in contents.items():
        own[key] = value
        if isinstance(value, dict | set):
            value.clear()
            value.update(copy)
        elif isinstance(value, list):
            value[:] = copy


@contextlib.contextmanager
def _plain_kernels(model: nn.Module) -> Iterator[None]:
    """Choose kernels that compute by operators with rules."""
    fast = torch.backends.mha.get_fastpath_enabled()
    onednn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    if is_recurrent:  # one fused operator otherwise
        torch._C._set_mkldnn_enabled(False)
        torch._C._set_cudnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)
        torch._C._set_cudnn_enabled(cudnn)


def _tensors_in(value: Any, known: set[int]) -> Iterator[Tensor]:
    """Find the tensors in dictionaries, lists, tuples and data classes."""
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in known:
        return
    known.add(id(value))
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif dataclasses.is_dataclass(value):
        parts = list(vars(value).values())
    else:
        return
    for part in parts:
        yield from _tensors_in(part, known)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0
