"""Rules as files: safetensors with the configuration inside, no pickle."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .config import rule_config_from_values, rule_config_values
from .rule import AbstractRule, Rule

LICENSE = "MIT"
"""Licence of the shipped weights, and of others where none is named."""


def shipped_rules() -> list[str]:
    """Return the names of the rules that come with the library.

    Returns:
        Names that `load_rule` and `NeuralGraphOpt(rule=...)` take, sorted.

    Example:
        >>> "ng-gnn" in shipped_rules()
        True
    """
    folder = resources.files("l2o.rule") / "weights"
    return sorted(
        item.name.removesuffix(".safetensors")
        for item in folder.iterdir()
        if item.name.endswith(".safetensors")
    )


def save_rule(
    rule: Rule,
    path: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    license: str = LICENSE,
) -> None:
    """Write a rule to one file: weights, configuration, provenance, licence.

    The file appears whole or not at all: an interrupt or a full disk leaves what was
    there before.

    Args:
        rule: the rule.
        path: where to write, usually `*.safetensors`.
        provenance: how theta came about, as JSON values: run, seed, commit, budget.
        license: under which others may use theta, by its short name (SPDX).

    Raises:
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
        >>> save_rule(Rule(), path, provenance={"seed": 3})
        >>> read_provenance(path)
        {'seed': 3, 'license': 'MIT'}
    """
    metadata = {
        "format": "l2o-rule-1",
        "config": json.dumps(rule_config_values(rule.config)),
        "provenance": json.dumps(dict(provenance or {})),
        "license": license,
    }
    theta = {
        name: weight.detach().cpu().contiguous()
        for name, weight in rule.state_dict().items()
    }
    write_whole(Path(path), save(theta, metadata))


def rule_path(name_or_path: str | Path) -> Path:
    """Return the file that `load_rule` reads.

    Args:
        name_or_path: as for `load_rule`.

    Raises:
        FileNotFoundError: if it is neither a shipped rule nor a file.
    """
    names = shipped_rules()
    if str(name_or_path) in names:
        return Path(
            str(resources.files("l2o.rule") / "weights" / f"{name_or_path}.safetensors")
        )
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"load_rule needs a shipped rule {names} or a rule file; got "
            f"{str(name_or_path)!r}, which is neither. Check the spelling, or write "
            "the file with save_rule."
        )
    return path


def load_rule(name_or_path: str | Path) -> Rule:
    """Return a shipped rule by its name, or a rule from a file.

    Args:
        name_or_path: a name in `shipped_rules()`, else a path to a file that
            `save_rule` wrote. A shipped name wins over a file of the same name.

    Returns:
        The rule, on the CPU; move it with `rule.to(device)`.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the file is damaged, no rule, or its weights do not fit its
            configuration.

    Example:
        >>> rule = load_rule("ng-gnn")
        >>> rule.config.net.kind
        'ng_gnn'
    """
    path = rule_path(name_or_path)
    metadata, theta = _read(path)
    try:
        config = rule_config_from_values(json.loads(metadata["config"]))
    except ValueError as error:
        raise ValueError(
            f"load_rule cannot understand the configuration in {path}: {error}"
        ) from error
    with torch.device("meta"):  # no random numbers are drawn for weights that wait
        rule = Rule(config)
    expected = {name: tuple(item.shape) for name, item in rule.state_dict().items()}
    found = {name: tuple(item.shape) for name, item in theta.items()}
    if expected != found:
        differing = sorted(
            name
            for name in expected.keys() | found.keys()
            if expected.get(name) != found.get(name)
        )
        raise ValueError(
            f"load_rule needs weights that fit the file's own configuration; got {path}"
            f" with {len(differing)} tensors that do not, first {differing[0]!r}: "
            f"{found.get(differing[0])} instead of {expected.get(differing[0])}. "
            "The file belongs to another configuration; write it again with save_rule."
        )
    rule.load_state_dict(theta, assign=True)
    return rule


def read_provenance(name_or_path: str | Path) -> dict[str, Any]:
    """Return how a rule's theta came about, as `save_rule` was told.

    Args:
        name_or_path: as for `load_rule`.

    Returns:
        The provenance, and the licence under the key `license`.

    Raises:
        FileNotFoundError: if it is neither a shipped rule nor a file.
        ValueError: if the file is damaged or no rule.

    Example:
        >>> read_provenance("ff")["license"]
        'MIT'
    """
    metadata, _ = _read(rule_path(name_or_path))
    return {
        **json.loads(metadata.get("provenance", "{}")),
        "license": metadata.get("license", "unknown"),
    }


def rule_hash(rule: AbstractRule) -> int:
    """Return a number that tells rules apart: class, configuration, weights, dtype.

    Weights on the meta device count by their shapes only.

    Args:
        rule: the rule.

    Returns:
        An integer below 2**63, the same in every process and on every device.
    """
    config = rule_config_values(rule.config) if isinstance(rule, Rule) else {}
    digest = hashlib.sha256(type(rule).__qualname__.encode())
    digest.update(json.dumps([rule.step_size, config], sort_keys=True).encode())
    for name, weight in rule.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        if not weight.is_meta:
            raw = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    Raises:
        OSError: if there is no room; the file that was there survives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            # A file aligns its tensors otherwise than memory does, and kernels round by
            # alignment: copies make the updates those of the rule that was saved.
            theta = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"load_rule needs a whole safetensors file; got {path}, which cannot be "
            f"read ({error}). It may be truncated: copy or download it again."
        ) from error
    if "config" not in metadata:
        raise ValueError(
            f"load_rule needs a file that save_rule wrote; got {path}, whose metadata "
            f"holds {sorted(metadata)} and no rule configuration. Save a rule with "
            "save_rule."
        )
    return metadata, theta
