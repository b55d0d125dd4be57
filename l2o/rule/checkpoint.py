"""Rules as files: safetensors with the configuration inside, no pickle."""

import copy
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from l2o.files import parse_json, printable, write_whole
from l2o.rule_metadata import (
    FORMAT,
    HASH,
    opened,
    parse_provenance,
    rule_path,
    shipped_files,
    shipped_folder,
    tensor_shapes,
    unreadable,
)

from .build import (
    AnyRule,
    AnyRuleConfig,
    any_rule_config_from_values,
    any_rule_config_values,
    build_rule,
)
from .config import RuleConfig, check_savable
from .rule import AbstractRule
from .state import Tensors

LICENSE = "MIT"
"""Licence of the shipped weights, and of others where none is named."""

DEFAULT_RULE = "base"
"""Name of the shipped rule that is taken where none is named."""

_SHIPPED_SHA256 = {
    "ff": "39dbcf567ac3dc13a77ff0dfe4f9f1dd818eb25d9bb67a2c9e37603e89b84977",
    "ng-gnn": "a75aefebf31c04702143b00dfc520abe51fef42c389436892e85ecaf1da7fd36",
}
"""Checksum of each shipped file without one of its own; results are recorded under it,
so these files stay as they are."""
_COUNTS = ("layers", "depth", "width", "message_width", "heads", "kernel")
"""Fields of a network's configuration that tensors of the file must bear out."""
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""Types that weights may have, under their names in the file format."""


def save_rule(
    rule: AnyRule,
    path: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> None:
    """Write a rule to one file: weights, configuration, provenance, licence.

    The file appears whole or not at all: an interrupt or a full disk leaves the
    previous file. It holds a checksum of its content, which `load_rule` checks.

    Args:
        rule: the rule; its weights must be finite and of one floating-point type.
        path: where to write, usually `*.safetensors`.
        provenance: how theta came about, as JSON values: run, seed, commit, budget.
        license: under which others may use theta, by its short name (SPDX). None is
            what the provenance has under the key `license`, else MIT.

    Raises:
        OSError: if the file cannot be written.
        TypeError: if `rule` is no `Rule`, if its configuration has parts from outside
            the library, or if the provenance holds other than JSON.
        ValueError: if a weight is not finite, or the licence is not one line.

    Example:
        >>> import l2o, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
        >>> save_rule(l2o.Rule(), path, provenance={"seed": 3})
        >>> read_provenance(path)
        {'seed': 3, 'license': 'MIT'}
    """
    if not isinstance(rule, AnyRule):
        raise TypeError(
            f"save_rule needs a Rule; got {type(rule).__name__}. Keep the state_dict() "
            "of a class of your own with torch.save."
        )
    if isinstance(rule.config, RuleConfig):
        check_savable(rule.config)
    known = dict(provenance or {})
    theta = {
        name: weight.detach().cpu().contiguous()
        for name, weight in rule.state_dict().items()
    }
    dtypes = {str(weight.dtype).removeprefix("torch.") for weight in theta.values()}
    short = {long: name for name, long in _DTYPES.items()}
    _check_dtypes("save_rule", {short.get(name, name) for name in dtypes}, "the rule")
    _check_finite("save_rule", theta, "the rule")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(any_rule_config_values(rule.config)),
        "license": _checked_license(license or known.pop("license", LICENSE)),
    }
    known.pop("license", None)
    try:
        metadata["provenance"] = json.dumps(known)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"save_rule needs a provenance of JSON values; got {error}. Convert it to "
            "text, numbers, lists and dictionaries."
        ) from error
    metadata[HASH] = content_hash(metadata, theta)
    write_whole(Path(path), save(theta, metadata))


def load_rule(name_or_path: str | Path) -> AnyRule:
    """Return a shipped rule by its name, or a rule from a file.

    Args:
        name_or_path: a name in `shipped_rules()`, else a path to a file that
            `save_rule` wrote. A shipped name takes precedence over a file of the same
            name.

    Returns:
        The rule, on the CPU; move it with `rule.to(device)`.

    Raises:
        FileNotFoundError: if it is neither.
        OSError: if the file may not be read.
        TypeError: if the argument is neither text nor a path.
        ValueError: if the file is damaged, no rule, of a newer format, or if its
            weights are not finite or do not fit its configuration.

    Example:
        >>> rule = load_rule("ng-gnn")
        >>> rule.config.net.kind
        'ng_gnn'
    """
    path = rule_path(name_or_path)
    if path.parent != shipped_folder() or is_in_torch_dispatch_mode():
        return _read_rule(path)
    status = path.stat()
    version = status.st_mtime_ns, status.st_size, status.st_ino
    return copy.deepcopy(_read_shipped(path, version))


@functools.lru_cache(maxsize=16)
def _read_shipped(path: Path, version: tuple[int, ...]) -> AnyRule:
    """Return a shipped rule, to be copied; a file is read and checked once.

    Args:
        path: the file.
        version: changes when the file does.
    """
    return _read_rule(path)


def _read_rule(path: Path) -> AnyRule:
    """Read and check a rule file."""
    with opened(path, "pt") as (file, metadata):
        rule = _empty_rule(path, metadata["config"], tensor_shapes(file))
        theta = _read_theta(path, file, metadata)
    rule.load_state_dict(theta, assign=True)
    return rule


def read_provenance(name_or_path: str | Path) -> dict[str, Any]:
    """Return the provenance of a rule's theta, as `save_rule` was given it.

    Args:
        name_or_path: as for `load_rule`.

    Returns:
        The provenance, and the licence under the key `license`. Its texts are as the
        file has them: do not print those of an untrusted file as they are.

    Raises:
        FileNotFoundError: if it is neither a shipped rule nor a file.
        OSError: if the file may not be read.
        TypeError: if the argument is neither text nor a path.
        ValueError: if the file is damaged or no rule.

    Example:
        >>> read_provenance("ff")["license"]
        'MIT'
    """
    path = rule_path(name_or_path)
    with opened(path, "pt") as (file, metadata):
        _read_theta(path, file, metadata)
    return parse_provenance(path, metadata)


def rule_hash(rule: AbstractRule) -> int:
    """Return a number that tells rules apart: class, configuration, weights, dtype.

    Weights on the meta device count by their shapes only.

    Args:
        rule: the rule.

    Returns:
        An integer below 2**63, the same in every process and on every device.
    """
    digest = hashlib.sha256(type(rule).__qualname__.encode())
    digest.update(
        json.dumps([rule.step_size, rule.settings()], sort_keys=True).encode()
    )
    for name, weight in rule.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        if not weight.is_meta:
            digest.update(_raw(weight))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _read_theta(
    path: Path, file: Any, metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the weights: of a known type, finite, and as they were saved."""
    names = list(file.keys())
    _check_dtypes(
        "load_rule", {file.get_slice(name).get_dtype() for name in names}, str(path)
    )
    # A file aligns its tensors otherwise than memory does, and kernels round by
    # alignment: copies make the updates those of the rule that was saved.
    theta = {name: file.get_tensor(name).clone() for name in names}
    recorded = metadata.get(HASH)
    if recorded is None:
        if shipped_files().get(path.stem) == path and path.stem in _SHIPPED_SHA256:
            recorded = _SHIPPED_SHA256[path.stem]
            is_same = recorded == hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            is_same = True
    else:
        is_same = recorded == content_hash(metadata, theta)
    if not is_same:
        raise unreadable(path, "its content is not what was saved: bits have changed")
    _check_finite("load_rule", theta, str(path))
    return theta


def _empty_rule(
    path: Path, description: str, found: Mapping[str, tuple[int, ...]]
) -> AnyRule:
    """Return the rule of a configuration without weights, if its shapes match.

    Nothing is drawn or allocated.
    """
    try:
        values = parse_json(description)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        config = any_rule_config_from_values(values)
        _check_counts(config, found)
        with torch.device("meta"):
            rule = build_rule(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"load_rule cannot understand the configuration in {path}: "
            f"{printable(error, 600)}"
        ) from error
    expected = {name: tuple(item.shape) for name, item in rule.state_dict().items()}
    if expected != found:
        differing = sorted(
            name
            for name in expected.keys() | found.keys()
            if expected.get(name) != found.get(name)
        )
        first = differing[0]
        raise ValueError(
            f"load_rule needs weights that fit the file's own configuration; got {path}"
            f" with {len(differing)} tensors that do not, first "
            f"{printable(repr(first))}: {found.get(first)} instead of "
            f"{expected.get(first)}. The file belongs to another configuration; write "
            "it again with save_rule."
        )
    return rule


def _check_dtypes(caller: str, dtypes: set[str], owner: str) -> None:
    """Raise unless all weights are of one floating-point type."""
    if len(dtypes) != 1 or not dtypes <= _DTYPES.keys():
        raise ValueError(
            f"{caller} needs weights of one type among {', '.join(_DTYPES.values())}; "
            f"got {printable(sorted(_DTYPES.get(name, name) for name in dtypes))} in "
            f"{owner}. Convert the rule with rule.float() and save it again."
        )


def _check_finite(caller: str, theta: Tensors, owner: str) -> None:
    """Raise if a weight is NaN or infinite."""
    for name, weight in theta.items():
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"{caller} needs finite weights; got NaN or infinity in {name!r} of "
                f"{owner}. Use a checkpoint from before the run diverged."
            )


def _check_counts(config: AnyRuleConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise if a size asks for more than the file holds.

    Each layer has a tensor of its own, and each channel an entry in one of them.
    """
    most = max(map(math.prod, shapes.values()), default=0)
    net = config.net
    for part in (net, getattr(net, "head", net)):
        for name in _COUNTS:
            value = getattr(part, name, None) or 0
            limit = len(shapes) if name in ("layers", "depth") else most
            if value > limit:
                raise ValueError(
                    f"{name}={value} needs more than the file's {len(shapes)} tensors "
                    f"of at most {most:,} entries; the file belongs to another "
                    "configuration"
                )


def content_hash(metadata: Mapping[str, str], theta: Tensors) -> str:
    """Return the SHA-256 of metadata and weights, whatever their order in the file."""
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {HASH}):
        digest.update(json.dumps([key, metadata[key]]).encode())
    for name, weight in sorted(theta.items()):
        kind = [name, str(weight.dtype), list(weight.shape)]
        digest.update(json.dumps(kind).encode())
        digest.update(_raw(weight))
    return digest.hexdigest()


def _raw(weight: Tensor) -> bytes:
    """Return the bytes of a tensor."""
    flat = weight.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _checked_license(license: object) -> str:
    if not isinstance(license, str) or not license.isprintable() or not license:
        raise ValueError(
            "save_rule needs a licence as one line of text; got "
            f"{printable(repr(license))}. Pass its short name, for example Apache-2.0."
        )
    return license
