"""What the inner problems are: one frozen record for each kind."""

from dataclasses import field
from typing import Literal, TypeAlias

from l2o.config import check_positive, frozen_config
from optimizees.sampling import Family


@frozen_config
class TaskConfig:
    """One named inner problem."""

    kind: Literal["named"] = "named"
    name: Literal["fashion-cnn", "fashion-mlp"] = "fashion-cnn"
    """Model family; the data is FashionMNIST."""
    image_size: Literal[7, 14, 28] = 28
    """Pixels a side; below 28 the images are average-pooled."""
    batch_size: int = 128
    """Images a batch."""
    weight: float = 1.0
    """Relative frequency among the unrolls."""

    def __post_init__(self) -> None:
        check_positive("TaskConfig", batch_size=self.batch_size, weight=self.weight)

    @property
    def label(self) -> str:
        """A short name for logs."""
        return f"{self.name}, {self.image_size} px, batches of {self.batch_size}"


@frozen_config
class FamilyConfig:
    """Inner problems drawn from a family of networks, images and batch sizes."""

    kind: Literal["family"]
    family: Family = field(default_factory=Family)
    """From which ranges."""
    members: int = 8
    """How many different problems are drawn, once; each has its own architecture, for
    which the rule is compiled."""
    seed: int = 0
    """Decides which."""
    weight: float = 1.0
    """Relative frequency among the unrolls."""

    def __post_init__(self) -> None:
        check_positive("FamilyConfig", members=self.members, weight=self.weight)


AnyTaskConfig: TypeAlias = TaskConfig | FamilyConfig
