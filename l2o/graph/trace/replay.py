"""Running a module again while its operators are watched, without side effects."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from .hooks import quiet_hooks
from .isolation import isolated
from .labels import Labels
from .mode import GradientMode, TraceMode
from .random_state import RandomState
from .tracer import Tracer

REFUSALS = (
    RuntimeError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AssertionError,
    NotImplementedError,
)
"""What models raise for a batch that they were not built for."""


def replay(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tracer: Tracer,
    random_state: RandomState | None,
    *,
    keeps_saved: bool = True,
) -> None:
    """Run the model once; `tracer` records what its operators do.

    Args:
        model: the network, in whatever mode it is.
        args: its positional inputs; left unchanged.
        kwargs: its named inputs; left unchanged.
        tracer: where the pass is recorded. The neurons of the outputs are frozen.
        random_state: the random numbers to draw; None means those that come next.
        keeps_saved: whether autograd keeps what a backward pass inside `forward`
            needs, which takes several times the memory of the parameters.
    """
    leaves, form = pytree.tree_flatten((tuple(args), dict(kwargs)))
    others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
    with contextlib.ExitStack() as stack:
        protect = stack.enter_context(isolated(model, others))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the first run has already shown them
        if random_state is not None:
            random_state.restore()
        stack.enter_context(quiet_hooks(model))
        stack.enter_context(_plain_kernels(model))
        stack.enter_context(torch.enable_grad())
        twins = {id(leaf): _copied(leaf) for leaf in leaves}
        copies = [twins[id(leaf)] for leaf in leaves]
        inputs = [copy for copy in twins.values() if isinstance(copy, Tensor)]
        for number, copy in enumerate(inputs):
            tracer.store.write(copy, Labels(depends=True))
            tracer.store.name_input(copy, number)
        args, kwargs = pytree.tree_unflatten(copies, form)
        stack.enter_context(GradientMode(tracer))
        stack.enter_context(TraceMode(tracer, protect))
        if not keeps_saved:
            stack.enter_context(saved_tensors_hooks(_dropped, _refused))
        outputs = model(*args, **kwargs)
    for tensor in _tensors_in(outputs, set()):
        for plane in tracer.store.see(tensor).planes:
            tracer.end(plane)


def _dropped(tensor: Tensor) -> None:
    """Keep nothing for a backward pass."""


def _refused(nothing: None) -> Tensor:
    """Refuse a backward pass."""
    raise RuntimeError("this pass keeps nothing for a backward pass")


def cut(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Return the inputs with two samples.

    Returns:
        None if the tensors do not share a leading size, or if that is at most two.
    """
    leaves, form = pytree.tree_flatten((tuple(args), dict(kwargs)))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    if len(sizes) != 1 or max(sizes) <= 2:
        return None
    twins = {id(x): x[:2] if isinstance(x, Tensor) else x for x in leaves}
    return pytree.tree_unflatten([twins[id(x)] for x in leaves], form)


def _copied(leaf: Any) -> Any:
    """Return a copy of an input that may be overwritten and differentiated alike."""
    if not isinstance(leaf, Tensor):
        return leaf
    copy = leaf.detach()
    if not leaf.requires_grad:
        return copy.clone()
    # A leaf of autograd cannot be overwritten; what was computed can.
    if leaf.is_leaf:
        return copy.clone().requires_grad_()
    return copy.requires_grad_().clone()


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
