"""What the inner problems are: one frozen record for each kind."""

import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Discriminator, Tag
from typing_extensions import override

from l2o.config import NotNegative, Positive, frozen_config
from optimizees import Family, Task, TaskName


@frozen_config
class _WeightedConfig(ABC):
    """What all tasks and families of a run have."""

    weight: Positive[float] = 1.0
    """Relative frequency among the unrolls."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for logs."""


@frozen_config
class TaskConfig(_WeightedConfig):
    """One named task, as `optimizees.load_task` loads it."""

    kind: Literal["named"] = "named"
    name: TaskName = "fashion-cnn"
    """Which task."""
    image_size: Positive[int] | None = None
    """Pixels per side to which images are average-pooled; None leaves them. Only tasks
    whose network fits images of any size take it."""
    batch_size: Positive[int] = 128
    """Examples per batch."""

    @property
    @override
    def label(self) -> str:
        size = "" if self.image_size is None else f", {self.image_size} px"
        return f"{self.name}{size}, batches of {self.batch_size}"


@frozen_config
class FactoryConfig(_WeightedConfig):
    """A task that your own function returns."""

    kind: Literal["factory"]
    factory: str
    """The function as `module:function`. It takes no argument, or `device`, and returns
    an `optimizees.Task`. The working directory is searched, too."""

    def __post_init__(self) -> None:
        module, mark, function = self.factory.partition(":")
        if not (module and mark and function):
            raise ValueError(
                "FactoryConfig factory must be module:function; got factory="
                f"{self.factory!r}. Write for example my_tasks:sines."
            )

    @property
    @override
    def label(self) -> str:
        return self.factory


@frozen_config
class GivenTaskConfig(_WeightedConfig):
    """A task that is handed over in Python, by its name."""

    kind: Literal["given"]
    name: str
    """Name of the task."""

    @property
    @override
    def label(self) -> str:
        return self.name


@frozen_config
class FamilyConfig(_WeightedConfig):
    """Inner problems drawn from a family of networks, images and batch sizes."""

    kind: Literal["family"]
    family: Family = field(default_factory=Family)
    """From which ranges."""
    members: Positive[int] = 8
    """How many different problems are drawn, once; each has its own architecture, for
    which the rule is compiled."""
    seed: NotNegative[int] = 0
    """Decides which."""

    @property
    @override
    def label(self) -> str:
        kinds = ", ".join(self.family.networks)
        return f"family of {self.members} ({kinds}), seed {self.seed}"


def _kind(values: object) -> object:
    """Return which kind of task some values describe; named ones need not say."""
    if isinstance(values, Mapping):
        return values.get("kind", "named")
    return getattr(values, "kind", None)


_Named: TypeAlias = Annotated[TaskConfig, Tag("named")]
_Factory: TypeAlias = Annotated[FactoryConfig, Tag("factory")]
_Given: TypeAlias = Annotated[GivenTaskConfig, Tag("given")]
_Family: TypeAlias = Annotated[FamilyConfig, Tag("family")]

SingleTaskConfig: TypeAlias = Annotated[
    _Named | _Factory | _Given, Discriminator(_kind)
]
"""One task, which can be validated on."""
AnyTaskConfig: TypeAlias = Annotated[
    _Named | _Factory | _Given | _Family, Discriminator(_kind)
]
"""One task, or a family of them."""


def call_factory(factory: str, device: torch.device) -> Task:
    """Return the task of a `module:function`, on a device.

    Args:
        factory: the name.
        device: passed to the function if it has a parameter of that name; otherwise the
            task is moved there.

    Raises:
        ValueError: if there is no such function or it returns something else.
    """
    module_name, _, function_name = factory.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"FactoryConfig factory must name a function that can be imported; got "
            f"{factory!r} ({error}). Run from the directory that holds the module, or "
            "install it."
        ) from error
    takes_device = "device" in inspect.signature(build).parameters
    task = build(device=device) if takes_device else build()
    if not isinstance(task, Task):
        raise ValueError(
            "FactoryConfig factory must return an optimizees.Task; got "
            f"{type(task).__name__} from {factory!r}. Return the task itself."
        )
    return task.to(device)
