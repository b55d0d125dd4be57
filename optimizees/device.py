"""Where tensors live: device names of the command line, resolved in one place."""

import torch

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """Return the device that a name means on this machine.

    Args:
        name: `auto` is the first of CUDA and MPS that is there, else the CPU; or `cpu`,
            `cuda`, `cuda:1` (the second GPU), `mps`.

    Raises:
        ValueError: if torch knows no such device, or sees none here. Nothing falls
            back to the CPU.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        found = [kind for kind in ("cuda", "mps") if _count(kind) > 0]
        return torch.device(found[0] if found else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in _KINDS:
        raise ValueError(
            f"device must be auto, cpu, cuda, cuda:N or mps; got {name!r}. Choose auto "
            "to use a GPU where there is one."
        )
    count = _count(device.type)
    if (device.index or 0) >= count:
        raise ValueError(
            f"device must be on this machine; got {name!r}, and torch sees {count} "
            f"devices of the kind {device.type}. Choose auto or cpu."
        )
    return device


def _count(kind: str) -> int:
    """Return how many devices of a kind torch sees."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 1
