"""The outer loop: networks are unrolled to learn the rule that trains them.

`meta_train.train(tasks, folder=...)` is the entry in Python, `l2o meta-train` the one
for YAML files.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .entry import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Import the entry when it is asked for: verbs that do not train load faster."""
    if name == "train":
        from .entry import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
