"""The model card of a shared rule, written from its provenance."""

import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from l2o.files import printable

from .build import AnyRule
from .checkpoint import LICENSE

_NOT_STATED = "Not stated."
_PROSE_KEYS = ("tried", "results", "limits")
_YAML_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Words that YAML reads as other than text."""
_NETWORKS = {
    "ng_gnn": "graph network (NG-GNN)",
    "neuron_gnn": "graph network neuron by neuron (NG-GNN)",
    "ng_t": "relational transformer (NG-T)",
    "ff": "feed-forward network",
    "lstm": "recurrent network (LSTM)",
    "nfn": "neural functional (NFN)",
}


def model_card(
    rule: AnyRule,
    *,
    repo_id: str,
    filename: str = "rule.safetensors",
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Return a model card in markdown, filled from the provenance.

    The card says "not stated" where the provenance holds nothing. Text of the
    provenance may come from a stranger's file: it can neither add to the metadata block
    nor carry control characters.

    Args:
        rule: the rule that the card describes.
        repo_id: where the rule is: a repository `owner/name` or a folder.
        filename: the rule's file there.
        provenance: as `save_rule` takes it. The keys that the meta-training writes
            (`config`, `data`, `inner_steps`, `seconds`, `validation`, ...) become a
            table; three more are prose in markdown and become sections: `tried`,
            `results` and `limits`.

    Returns:
        The card, its metadata block first.

    Example:
        >>> import l2o
        >>> card = model_card(l2o.Rule(), repo_id="me/rule",
        ...                   provenance={"limits": "Images only."})
        >>> "Images only." in card
        True
    """
    known = dict(provenance or {})
    prose = {key: _prose(known.pop(key, None)) for key in _PROSE_KEYS}
    template = resources.files("l2o.rule") / "model_card.md"
    return Template(template.read_text(encoding="utf-8")).substitute(
        license_tag=_yaml_text(str(known.get("license", LICENSE)).lower()),
        title=printable(repo_id.rstrip("/").rsplit("/", 1)[-1]),
        network=_network(rule),
        num_weights=f"{rule.num_weights():,}",
        filename=printable(filename),
        repo_id=_json(repo_id),
        training=_training_table(known),
        tried=prose["tried"] or _NOT_STATED,
        results=prose["results"] or _validation(known) or _NOT_STATED,
        limits=prose["limits"] or _NOT_STATED,
        provenance=_json(known, indent=2),
    )


def _network(rule: AnyRule) -> str:
    """Return the name of a rule's network in words."""
    net = rule.config.net
    return "none, rates by role" if net is None else _NETWORKS.get(net.kind, net.kind)


def _yaml_text(text: str) -> str:
    """Return text as a YAML value that is read back as the same text."""
    if re.fullmatch(r"[a-z][a-z0-9.+-]*", text) and text not in _YAML_WORDS:
        return text
    return _json(text)


def _json(values: Any, *, indent: int | None = None) -> str:
    """Return values as JSON without characters that a terminal obeys."""
    text = json.dumps(values, indent=indent, ensure_ascii=False, default=str)
    return "".join(
        character
        if character == "\n" or character.isprintable()
        else json.dumps(character)[1:-1]
        for character in text
    )


def _prose(text: Any) -> str | None:
    """Return markdown line by line, its control characters shown as escapes."""
    if text is None:
        return None
    return "\n".join(printable(line, len(line)) for line in str(text).splitlines())


def _cell(value: Any) -> str:
    """Return a value as a cell of a table."""
    return printable(value).replace("|", "\\|")


def _training_table(known: Mapping[str, Any]) -> str:
    """Return data, tasks and budget as a table with only the rows that are known."""
    rows = {
        "data": known.get("data"),
        "tasks": _tasks(_at(known, "config", "tasks")),
        "inner steps of a run": _span(_at(known, "config", "unroll")),
        "estimator": _at(known, "config", "estimator", "kind"),
        "outer steps": _number(known.get("outer_step")),
        "inner steps in total": _number(known.get("inner_steps")),
        "inner runs that diverged": _number(known.get("num_diverged")),
        "wall time": _minutes(known.get("seconds")),
        "processor": _at(known, "machine", "processor"),
        "threads": _at(known, "machine", "threads"),
        "GPU": _at(known, "machine", "gpu"),
        "seed": known.get("seed", _at(known, "config", "seed")),
        "commit": known.get("commit"),
    }
    lines = [
        f"| {name} | {_cell(row)} |" for name, row in rows.items() if row is not None
    ]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else _NOT_STATED


def _at(values: Any, *keys: str) -> Any:
    """Return the value at nested keys; None where one of them is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _tasks(tasks: Any) -> str | None:
    if not isinstance(tasks, list | tuple):
        return None
    return "; ".join(
        ", ".join(f"{key} {value}" for key, value in task.items())
        if isinstance(task, Mapping)
        else str(task)
        for task in tasks
    )


def _span(unroll: Any) -> str | None:
    if not isinstance(unroll, list | tuple):
        return None
    return " to ".join(str(_number(steps)) for steps in unroll)


def _number(count: Any) -> Any:
    return f"{count:,}" if isinstance(count, int) else count


def _minutes(seconds: Any) -> Any:
    is_number = isinstance(seconds, int | float) and math.isfinite(seconds)
    return f"{seconds / 60:.0f} min" if is_number else seconds


def _validation(known: Mapping[str, Any]) -> str | None:
    figures = known.get("validation")
    if not isinstance(figures, Mapping):
        return None
    values = ", ".join(
        f"{printable(name)} {value:.4g}"
        for name, value in figures.items()
        if isinstance(value, int | float)
    )
    return f"On the validation split, as the run measured it: {values}."
