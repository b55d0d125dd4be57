"""Networks that read networks, as files: safetensors with the configuration inside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from l2o.config import config_from_values, config_values
from l2o.files import parse_json, printable, write_whole
from l2o.rule.checkpoint import content_hash

from .config import CompanionConfig
from .models import NetworkClassifier, NetworkEditor, NetworkPredictor
from .probes import Evaluate

Companion: TypeAlias = NetworkClassifier | NetworkPredictor | NetworkEditor

_FORMAT = "l2o-companion-1"
_HASH = "sha256"


def save_companion(
    model: nn.Module,
    path: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a classifier, predictor or editor to one file.

    The file holds weights, statistics, configuration, provenance and a checksum, which
    `load_companion` checks. It appears whole or not at all.

    Args:
        model: a `NetworkClassifier`, `NetworkPredictor` or `NetworkEditor`.
        path: where to write, usually `*.safetensors`.
        provenance: how it was trained, as JSON values: data, seed, commit.

    Raises:
        OSError: if the file cannot be written.
        TypeError: if the model is none of these, or the provenance holds other values
            than JSON's.

    Example:
        >>> import tempfile
        >>> from l2o.companion import park_predictor
        >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
        >>> model = NetworkPredictor(park_predictor("ng_t"))
        >>> save_companion(model, path, provenance={"seed": 3})
        >>> load_companion(path).config == model.config
        True
        >>> read_companion_provenance(path)
        {'seed': 3}
    """
    kind, num_classes, config = _kind(model)
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    try:
        known = json.dumps(dict(provenance or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"save_companion needs a provenance of JSON values; got {error}. Convert "
            "it to text, numbers, lists and dictionaries."
        ) from error
    metadata = {
        "format": _FORMAT,
        "kind": kind,
        "num_classes": str(num_classes),
        "config": json.dumps(config_values(config)),
        "provenance": known,
    }
    metadata[_HASH] = content_hash(metadata, weights)
    write_whole(Path(path), save(weights, metadata))


def shipped_companions() -> list[str]:
    """Return the names of the networks that come with the library.

    Returns:
        Names that `load_companion` takes, sorted.

    Example:
        >>> "siren-digits" in shipped_companions()
        True
    """
    return sorted(_shipped())


def load_companion(
    name_or_path: str | Path, *, evaluate: Evaluate | None = None
) -> Companion:
    """Return a network that comes with the library, or that `save_companion` wrote.

    Args:
        name_or_path: a name in `shipped_companions()`, which takes precedence, else
            the path of a file.
        evaluate: how to run networks on probes; needed where the network has any.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: if it is neither.
        OSError: if the file cannot be opened.
        ValueError: if it is damaged, of another kind or of a newer format, or if the
            network has probes and there is no way to evaluate them.
    """
    path = _path(name_or_path)
    metadata, weights = _read(path)
    try:
        config = config_from_values(CompanionConfig, parse_json(metadata["config"]))
        model = _build(metadata["kind"], config, int(metadata["num_classes"]), evaluate)
        dtype = next(iter(model.parameters())).dtype
        found = {value.dtype for value in weights.values() if value.is_floating_point()}
        model.to(found.pop() if len(found) == 1 else dtype)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"load_companion cannot build the network in {path}: "
            f"{printable(error, 600)} Load it with the version of l2o that wrote it."
        ) from error
    return model.eval()


def read_companion_provenance(name_or_path: str | Path) -> dict[str, Any]:
    """Return how a network was trained, as `save_companion` was told.

    Args:
        name_or_path: as for `load_companion`.

    Returns:
        The provenance. Do not print the texts of an untrusted file as they are.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged or of another kind.
    """
    return parse_json(_read(_path(name_or_path))[0]["provenance"])


def _shipped() -> dict[str, Path]:
    """Return the files of the networks that come with the library, by name."""
    folder = Path(__file__).parent / "weights"
    return {path.stem: path for path in folder.glob("*.safetensors")}


def _path(name_or_path: str | Path) -> Path:
    """Return the file of a shipped network, or the file that is named."""
    found = _shipped().get(str(name_or_path), Path(name_or_path))
    if not found.is_file():
        raise FileNotFoundError(
            f"load_companion needs a shipped network {shipped_companions()} or a file; "
            f"got {printable(repr(str(name_or_path)))}, which is neither. Check the "
            "spelling, or write the file with save_companion."
        )
    return found


def _kind(model: nn.Module) -> tuple[str, int, CompanionConfig]:
    """Return the name of a kind of network, its classes and its configuration."""
    match model:
        case NetworkClassifier():
            return "classifier", model.num_classes, model.config
        case NetworkPredictor():
            return "predictor", 1, model.config
        case NetworkEditor():
            return "editor", 1, model.config
        case _:
            raise TypeError(
                "save_companion needs a NetworkClassifier, NetworkPredictor or "
                f"NetworkEditor; got {type(model).__name__}. Keep the state_dict() of "
                "another class with torch.save."
            )


def _build(
    kind: str, config: CompanionConfig, num_classes: int, evaluate: Evaluate | None
) -> Companion:
    match kind:
        case "classifier":
            return NetworkClassifier(config, num_classes=num_classes, evaluate=evaluate)
        case "predictor":
            return NetworkPredictor(config, evaluate=evaluate)
        case "editor":
            return NetworkEditor(config, evaluate=evaluate)
        case _:
            raise ValueError(f"there is no kind {kind!r}.")


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and weights, as they were saved."""
    try:
        with path.open("rb"), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"load_companion reads the format {_FORMAT}; got "
            f"{printable(repr(metadata.get('format')))} in {path}. Write the file with "
            "save_companion, or install the version of l2o that wrote it."
        )
    needed = {"kind", "num_classes", "config", "provenance", _HASH}
    if not needed <= metadata.keys():
        raise _unreadable(path, "a part of its header is missing")
    if metadata[_HASH] != content_hash(metadata, weights):
        raise _unreadable(path, "its content is not what was saved")
    return metadata, weights


def _unreadable(path: Path, problem: object) -> ValueError:
    return ValueError(
        f"load_companion needs a whole safetensors file; got {path}, which cannot be "
        f"read ({printable(problem)}). It may be damaged: copy or download it again."
    )
