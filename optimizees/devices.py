"""The choice of a device, for every command that trains."""

import torch


def choose_device(name: str) -> torch.device:
    """Return the device of a name; nothing falls back silently.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps" or any other PyTorch device, or "auto":
            CUDA when there is a GPU, else the CPU.

    Raises:
        ValueError: if torch knows no such device, or sees none on this machine.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            "device must be auto, cpu, cuda, mps or another device that torch sees on "
            f"this machine; got {name!r} ({reason}). Choose auto or cpu."
        ) from error
    return device
