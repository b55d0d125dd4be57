"""The CNN Wild Park: a directory with one file per network, generated and read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from optimizees.data.images import ImageData
from optimizees.files import FileKind, has_files, holds_tensors, settle_description
from optimizees.shared_work import Locks, share_out
from optimizees.zoo.park_files import RUN_FILE, TrainedRun, read_run, write_run
from optimizees.zoo.park_training import ParkConfig, draw_recipe, train_network

Split: TypeAlias = Literal["train", "validation", "test"]

EMBEDDED_PARK = Path(__file__).parent / "embedded" / "park"
"""Twelve small networks of a real park, three checkpoints each, to try things on."""
EMBEDDED_TEST_PARK = Path(__file__).parent / "embedded" / "test-park"
"""Five networks of the test split of a park of FashionMNIST, four checkpoints each."""

_TURN = 10
_SPLITS: dict[Split, range] = {
    "train": range(7),
    "validation": range(7, 8),
    "test": range(8, 10),
}


def generate_park(
    directory: Path,
    config: ParkConfig,
    train: ImageData,
    test: ImageData,
    *,
    indices: range,
    origin: Mapping[str, Any],
    announce: Callable[[TrainedRun], object] | None = None,
) -> None:
    """Train the networks of a park that are not there yet, one file each.

    A file that is empty or truncated counts as not there. Files appear whole or not at
    all, so a generation that was stopped continues where it stopped. Any number of
    processes may share one park: each trains what no other one holds, and returns when
    all networks are there.

    Args:
        directory: where the files go.
        config: how the networks are trained.
        train: the training images, on the device to train on.
        test: the images that every checkpoint is tested on, on the same device.
        indices: which networks.
        origin: facts to write with every network, as JSON values: where the images
            come from, which code made it.
        announce: called with every network that this process trained.

    Raises:
        ValueError: if the park there was trained otherwise.
        OSError: if a file cannot be written.
    """
    description = {
        "config": asdict(config),
        "train": {"source": train.source, "num_images": len(train)},
        "test": {"source": test.source, "num_images": len(test)},
        "image_shape": list(train.images.shape[1:]),
    }
    if indices.start < 0:
        raise ValueError(
            "generate_park needs indices of at least 0; got "
            f"{indices.start} to {indices.stop - 1}. Begin with 0."
        )
    _settle(directory, description)

    def make(index: int) -> None:
        if holds_tensors(_path(directory, index)):  # another process was faster
            return
        recipe = draw_recipe(config, index, in_channels=train.images.shape[1])
        run = train_network(recipe, config, train, test)
        _settle(directory, description)
        write_run(_path(directory, index), run, origin=origin)
        if announce is not None:
            announce(run)

    find_missing = partial(missing_runs, directory, indices)
    share_out(find_missing, make, locks=Locks(directory))


def missing_runs(directory: Path, indices: range) -> list[int]:
    """Return which networks of a park are still to be trained.

    Args:
        directory: where the files are.
        indices: which networks to look for.
    """
    return [index for index in indices if not holds_tensors(_path(directory, index))]


def _settle(directory: Path, description: dict[str, Any]) -> None:
    """Agree with the park in the directory, or with what is to be trained there."""
    is_binding = has_files(directory, "*.safetensors")
    settle_description(directory / "park.json", description, is_binding=is_binding)


def read_park(directory: Path, split: Split) -> Iterator[TrainedRun]:
    """Read the networks of one split of a park, in order.

    Networks are drawn independently of their number, so the number decides: of every
    ten, the first seven are for training, the eighth for validation, two for testing.
    All checkpoints of a network are in the split of the network.

    Args:
        directory: what `l2o data wild-park` filled.
        split: which networks.

    Yields:
        Networks with at least one checkpoint.

    Raises:
        FileNotFoundError: if there is no park.
        ValueError: if a file is damaged, or not named after the network's number.
    """
    describe_park(directory)
    for path in sorted(directory.glob("*.safetensors")):
        if not path.stem.isdecimal():
            raise RUN_FILE.error(path, "its name is no number")
        if int(path.stem) % _TURN in _SPLITS[split]:
            run = read_run(path)
            if len(run):
                yield run


def describe_park(directory: Path) -> dict[str, Any]:
    """Return how a park was trained, as `park.json` has it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = directory / "park.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"a wild park must be in {directory}; found no park.json there. "
            "Run `l2o data wild-park`, or name the directory of a park."
        )
    kind = FileKind("describe_park", "a JSON object", "Restore the file.")
    found = kind.read_json(path)
    if not isinstance(found, dict):
        raise kind.error(path, "it holds no JSON object")
    return found


def _path(directory: Path, index: int) -> Path:
    return directory / f"{index:05d}.safetensors"
