"""What makes the host wait for an accelerator."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")

WAITS = (
    *("_local_scalar_dense", "nonzero", "nonzero_numpy", "equal", "masked_select"),
    *("is_nonzero", "unique_dim", "_unique2", "unique_consecutive"),
)
"""What makes the host wait, because a value or a shape depends on the data."""


class Waits(TorchDispatchMode):
    """Collects what makes the host wait for an accelerator.

    The meta device plays it: like an accelerator it lies apart from the host. Tensors
    on the CPU may be read, and small ones may be sent without waiting.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        device = args[0].device if args and isinstance(args[0], Tensor) else None
        if name in WAITS and device != CPU:
            self.found.append(name)
        if name.startswith("index") and device != CPU and _has_mask(args):
            self.found.append("nonzero")
        if name == "_to_copy":
            crosses = kwargs.get("device") not in (None, device)
            if crosses and not kwargs.get("non_blocking"):
                self.found.append("a blocking copy")
        if name == "copy_":
            is_late = kwargs.get("non_blocking") or True in args[2:]
            if args[1].device != device and not is_late:
                self.found.append("a blocking copy")
        return func(*args, **kwargs)


def _has_mask(args):
    """Whether an indexing operator selects by truth values, as many as there are."""
    masks = (torch.bool, torch.uint8)
    indices = [item for arg in args[1:2] if isinstance(arg, list) for item in arg]
    return any(item is not None and item.dtype in masks for item in indices)
