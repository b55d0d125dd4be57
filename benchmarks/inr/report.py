"""`l2o report inr`: tables, curves, ablations and edited digits."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from benchmarks.pictures import Panel, save_curves
from benchmarks.report import github_table, origin_of, require_rows, write_report
from benchmarks.runs import Row
from benchmarks.summary import spread
from l2o.files import write_whole
from meta_train.log import read_json_lines

from .command import decode_image
from .models import GraphName
from .pictures import draw_rows

PAPER = {
    ("inr-classification", "digits"): {
        "MLP": "17.6",
        "Set NN": "23.7",
        "DWSNet": "85.71 ± 0.57",
        "NG-GNN, 0 probes": "91.40 ± 0.60",
        "NG-GNN, 64 probes": "94.7 ± 0.3",
        "NG-T, 0 probes": "92.4 ± 0.3",
        "NG-T, 64 probes": "97.3 ± 0.2",
        "NG-GNN, 0 probes, no positions": "83.9 ± 0.3",
        "NG-T, 0 probes, no positions": "77.9 ± 0.7",
    },
    ("inr-classification", "fashion"): {
        "MLP": "19.9",
        "Set NN": "22.3",
        "DWSNet": "67.06 ± 0.29",
        "NG-GNN, 0 probes": "68.00 ± 0.20",
        "NG-GNN, 4 probes": "71.9",
        "NG-GNN, 64 probes": "74.2 ± 0.4",
        "NG-T, 0 probes": "72.7 ± 0.6",
        "NG-T, 4 probes": "73.8",
        "NG-T, 64 probes": "74.8 ± 0.9",
    },
    ("inr-editing", "digits"): {
        "DWSNet": "2.58 ± 0.00",
        "NFN": "2.55 ± 0.00",
        "NG-GNN, 64 probes": "2.06 ± 0.01",
        "NG-T, 64 probes": "1.75 ± 0.01",
    },
}
"""Test accuracy in percent, or squared error in hundredths, by benchmark, data and
variant; on the networks of Navon et al."""

_LIKE_OURS = {"mnist-archive": "digits", "fashion-archive": "fashion"}
_SETTING = ("benchmark", "data", "counts", "training", "augmentation")
_VARIANT = ("label", "width", "small_transformer", "fourier_scale", "dropout")
_NOTES = """\
Mean ± sample standard deviation over n seeds. The weights that are tested are those of
the epoch with the best validation score. Networks per second: while training, on one
machine for all rows of a table but not always a quiet one. *Nothing* leaves every
network as it is.

The paper's figures are for the networks of Navon et al., of which there are 55,000 to
train on, and for 200 epochs: another data set and a larger budget. Those of the
baselines, of 64 probes and of networks without positions are recalled, not verified."""


def report_inr(results: Path) -> str:
    """Return the tables of both benchmarks; write them, curves and edited digits.

    Args:
        results: the JSON lines file; `.md` and `.png` are written with its name, and
            pictures of edited digits with `-edited.png` behind it.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows.
    """
    command = "l2o benchmark inr-classification"
    rows = read_json_lines(require_rows(results, command))
    rows = list({row["key"]: row for row in rows}.values())
    parts, panels = ["# Networks that are images"], []
    for setting in _grouped(rows, _SETTING):
        parts += [f"## {_headline(setting[0])}", _table(setting)]
        parts += [*_ablations(setting), origin_of(setting)]
        panels += _panels(setting)
    save_curves(results.with_suffix(".png"), panels, columns=2)
    shown = _draw_edits(rows, results.with_name(f"{results.stem}-edited.png"))
    made_by = f"Made by `{command}` and `l2o benchmark inr-editing`."
    return write_report(results, [*parts, *shown, _NOTES, made_by])


def _grouped(rows: Iterable[Row], names: tuple[str, ...]) -> list[list[Row]]:
    """Split rows by some of their values, in their order."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(json.dumps([row[name] for name in names]), []).append(row)
    return list(parts.values())


def _headline(row: Row) -> str:
    """Say what was learned from how many networks, for how long."""
    train, validation, test = row["counts"]
    training = row["training"]
    limit = "" if training["seconds"] is None else f" or {training['seconds']:g} s"
    verb = "Editing" if row["benchmark"] == "inr-editing" else "Classification"
    return (
        f"{verb}, {row['data']}: {train:,} / {validation:,} / {test:,} networks, at "
        f"most {training['epochs']} epochs{limit}"
    )


def _table(rows: list[Row]) -> str:
    """Return one line a variant."""
    is_editing = rows[0]["benchmark"] == "inr-editing"
    data: str = rows[0]["data"]
    paper = PAPER.get((rows[0]["benchmark"], _LIKE_OURS.get(data, data)), {})
    lines: list[tuple[object, ...]] = []
    for group in _grouped(rows, _VARIANT):
        first = group[0]
        lines.append(
            (
                first["label"],
                f"{first['parameters']:,}",
                len(group),
                _score(group),
                paper.get(first["label"], ""),
                spread(
                    [row["train_losses"][row["best_epoch"] - 1] for row in group], 4
                ),
                spread([row["test_loss"] for row in group], 4),
                ", ".join(f"{row['best_epoch']}/{row['epochs']}" for row in group),
                spread([row["networks_per_second"] for row in group], 0),
            )
        )
    if is_editing:
        nothing = f"{100 * rows[0]['nothing']:.3f}"
        lines.append(("*nothing*", "", "", nothing, "", "", "", "", ""))
    unit = rows[0]["unit"]
    return github_table(
        lines,
        (
            "network",
            "parameters",
            "n",
            "test error / 100" if is_editing else "test accuracy %",
            "paper, its data",
            f"training loss ({unit})",
            "test loss",
            "best epoch",
            "networks per second",
        ),
    )


def _score(rows: list[Row]) -> str:
    """Return what the paper's tables show."""
    if rows[0]["benchmark"] == "inr-editing":
        return spread([row["test_loss"] for row in rows], 3, 100)
    return spread([row["test_accuracy"] for row in rows], 2, 100)


def _ablations(rows: list[Row]) -> list[str]:
    """Return a table of probes and one of positions, where there is what to compare."""
    tables = []
    for heading, column, fixed in (
        ("Probes", "num_probes", ("model", "has_positions")),
        ("Positional embeddings", "has_positions", ("model", "num_probes")),
    ):
        graph_rows = [row for row in rows if row["model"] in get_args(GraphName)]
        values = sorted({row[column] for row in graph_rows})
        if len(values) < 2:
            continue
        lines = []
        for group in _grouped(graph_rows, fixed):
            found = {
                value: [row for row in group if row[column] == value]
                for value in values
            }
            if sum(map(bool, found.values())) > 1:
                scores = [_score(part) if part else "" for part in found.values()]
                lines.append((_without(group[0], column), *scores))
        names = {True: "with", False: "without"}
        headers = [names[v] if isinstance(v, bool) else f"{v} probes" for v in values]
        tables += [f"### {heading}", github_table(lines, ("network", *headers))]
    return tables


def _without(row: Row, column: str) -> str:
    """Return a variant's label without what a table's columns say."""
    parts = row["label"].split(", ")
    word = "probes" if column == "num_probes" else "positions"
    return ", ".join(part for part in parts if word not in part)


def _panels(rows: list[Row]) -> list[Panel]:
    """Draw losses by epoch, training next to test."""
    return [
        Panel(
            title=f"{_headline(rows[0])}\n{name} loss",
            curves={
                group[0]["label"]: [row[key] for row in group]
                for group in _grouped(rows, _VARIANT)
            },
            every=1,
            measure=f"{name} loss ({rows[0]['unit']})",
            is_loss=False,
            axis="epoch",
        )
        for name, key in (("training", "train_losses"), ("test", "test_losses"))
    ]


def _draw_edits(rows: list[Row], picture: Path) -> list[str]:
    """Draw edited images of every setting; return what to say of them."""
    edits = [row for row in rows if "examples" in row]
    if not edits:
        return []
    drawn = {}
    for number, setting in enumerate(_grouped(edits, _SETTING), start=1):
        mark = f" ({number})" if number > 1 else ""
        images = [_images(row) for row in setting]
        drawn[f"input{mark}"] = images[0]["input"]
        for row, found in zip(setting, images, strict=True):
            label = row["label"].replace(", ", "\n").replace(" with ", "\nwith ")
            drawn[label + mark] = found["prediction"]
        drawn[f"target{mark}"] = images[0]["target"]
    write_whole(picture, draw_rows(drawn))
    return [f"![edited digits: input, predictions, target]({picture.name})"]


def _images(row: Row) -> dict[str, Tensor]:
    """Return the edited images of a run, and what they were and should be."""
    return {
        name: torch.stack([decode_image(text) for text in texts])
        for name, texts in row["examples"].items()
    }
