"""`l2o report generalization`: the table against the paper, and a scatter."""

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pictures import color_of, save_figure, write_title
from benchmarks.report import github_table, origin_of, rows_report
from benchmarks.runs import Row
from benchmarks.summary import spread

from .data import PopulationName
from .predictors import PredictorName

COMMAND = "l2o benchmark generalization"

PAPER_TAU: dict[tuple[PopulationName, PredictorName], str] = {
    ("park", "stat-nn"): "0.719 ± 0.010",
    ("park", "ng-gnn"): "0.804 ± 0.009",
    ("park", "ng-t"): "0.817 ± 0.007",
    ("park", "ng-gnn-no-activations"): "0.778 ± 0.018",
    ("park", "ng-t-no-activations"): "0.728 ± 0.010",
    ("zoo", "stat-nn"): "0.915 ± 0.002",
    ("zoo", "nfn"): "0.934 ± 0.001",
    ("zoo", "ng-gnn"): "0.931 ± 0.002",
    ("zoo", "ng-t"): "0.935 ± 0.000",
}
"""Kendall's tau in the paper; recalled, but for NG-GNN on the zoo, not verified against
its text."""

_TITLES: dict[PredictorName, str] = {
    "stat-nn": "StatNN",
    "stat-nn-long": "StatNN, as long as it improves",
    "nfn": "NFN (HNP)",
    "ng-gnn": "NG-GNN",
    "ng-t": "NG-T",
    "ng-gnn-small": "NG-GNN, the size for a park",
    "ng-t-small": "NG-T, the size for a park",
    "ng-gnn-no-activations": "NG-GNN without activation embeddings",
    "ng-t-no-activations": "NG-T without activation embeddings",
}

_PURPOSES = {"train": "training", "validation": "choosing", "test": "testing"}

_NOTES = """\
Mean ± sample standard deviation over n seeds of the predictor; the networks are the
same for all. Tau is Kendall's tau-b and R² the share of explained variance, on test
networks that decided nothing; the epoch was chosen by tau on validation networks. No
network has checkpoints in two splits. The paper's figures belong to other, far larger
populations (2,800 networks that learned all of CIFAR-10 at 32 x 32 pixels; 30,000
networks) and are mostly recalled, not verified."""


def _parts(rows: list[Row]) -> list[str]:
    """Return what the page says, the last line excepted."""
    parts = ["# Accuracy from weights"]
    for group in _settings(rows):
        parts += [_headline(group[0]), _table(group), *_ablation(group)]
        parts.append(origin_of(group))
    return [*parts, _NOTES]


def _settings(rows: Sequence[Row]) -> list[list[Row]]:
    """Split rows that read other networks or learned otherwise, `epochs` apart."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        learning = {
            name: value
            for name, value in row["learning"].items()
            if name not in ("epochs", "long_epochs", "patience")
        }
        key = repr((row["population"], learning, row["networks"]))
        found.setdefault(key, []).append(row)
    return list(found.values())


def _groups(rows: Sequence[Row]) -> dict[tuple[PredictorName, int], list[Row]]:
    """Return rows that differ in nothing but the seed."""
    found: dict[tuple[PredictorName, int], list[Row]] = {}
    for row in rows:
        learning = row["learning"]
        epochs = learning.get("epochs", learning.get("long_epochs"))
        found.setdefault((row["predictor"], epochs), []).append(row)
    return found


def _headline(row: Row) -> str:
    """Say which networks were read, and what they learned."""
    networks, population = row["networks"], row["population"]
    made = networks["made"]
    counts = ", ".join(
        f"{networks[split]['networks']:,} for {purpose}"
        + (f" ({networks[split]['runs']:,} runs)" if population == "park" else "")
        for split, purpose in _PURPOSES.items()
    )
    low, _, middle, _, high = networks["test"]["accuracy_quantiles"]
    images = (
        f"trained on {made['train']['num_images']:,} images of "
        f"{made['train']['source']}, their accuracy measured on "
        f"{made['test']['num_images']:,}"
        if "train" in made
        else "the published ones"
    )
    learning = row["learning"]
    return (
        f"## {'CNN Wild Park' if population == 'park' else 'Small CNN Zoo'}\n\n"
        f"Networks {images}: {counts}. Accuracies of the test networks: {low:.1%} to "
        f"{high:.1%}, median {middle:.1%}. Predictors: batches of "
        f"{learning['batch_size']}, loss {learning['loss']}, augmentation "
        f"{'on' if learning['augment'] else 'off'}, "
        f"{'cosine' if learning['decay'] == 'cosine' else 'no'} decay of the rate; "
        f"{_shown(row)}."
    )


def _shown(row: Row) -> str:
    """Say how many checkpoints of a run predictors learn from, or what a zoo shows."""
    if row["population"] == "zoo":
        return "each network as it was at the end of its training"
    count = row["networks"]["checkpoints_per_run"]
    return f"{'all' if count is None else count} checkpoints of each training run"


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for (name, epochs), group in _groups(rows).items():
        seconds = [row["cpu_seconds"] for row in group]
        lines.append(
            (
                _TITLES[name],
                f"{group[0]['num_weights']:,}",
                len(group),
                f"{'at most ' * (name == 'stat-nn-long')}{epochs}",
                spread([row["tau"] for row in group], 3),
                PAPER_TAU.get((group[0]["population"], name), ""),
                spread([row["r2"] for row in group], 3),
                f"{sum(seconds) / len(seconds):.0f}",
            )
        )
    return github_table(
        lines,
        (
            "predictor",
            "weights",
            "n",
            "epochs",
            "Kendall's tau",
            "paper",
            "R²",
            "CPU seconds",
        ),
    )


def _ablation(rows: Sequence[Row]) -> list[str]:
    """Say what activation embeddings bring, seed by seed."""
    sentences = []
    groups = _groups(rows)
    for (name, epochs), without in groups.items():
        if not name.endswith("-no-activations"):
            continue
        whole = next(
            (
                group
                for (other, length), group in groups.items()
                if f"{other}-no-activations" == name and length == epochs
            ),
            [],
        )
        taus = {row["seed"]: row["tau"] for row in whole}
        losses = [
            taus[row["seed"]] - row["tau"] for row in without if row["seed"] in taus
        ]
        if losses:
            sentences.append(
                f"{_TITLES[name]}: tau falls by {spread(losses, 3)} "
                f"(n = {len(losses)}, seed by seed)."
            )
    return [" ".join(sentences)] if sentences else []


def _where(row: Row) -> str:
    """Return a short name of the networks that were read."""
    train = row["networks"]["made"].get("train")
    images = "" if train is None else f", {train['source'].split(' (')[0]}"
    return f"{row['population']}{images}"


def save_scatter(rows: Sequence[Row], path: Path) -> None:
    """Draw predicted against true accuracy, a panel for each predictor's first seed.

    Args:
        rows: those with predictions are drawn.
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    drawn = [
        next(row for row in group if "pairs" in row)
        for setting in _settings(rows)
        for group in _groups(setting).values()
        if any("pairs" in row for row in group)
    ]
    columns = min(3, max(1, len(drawn)))
    lines = max(1, math.ceil(len(drawn) / columns))
    figure = Figure(figsize=(3.4 * columns, 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for axis, row in zip(axes, drawn, strict=False):
        predicted, true = zip(*row["pairs"], strict=True)
        title = _TITLES[row["predictor"]]
        color = color_of(title) or "#CCA300"
        axis.scatter(true, predicted, s=4, alpha=0.4, linewidths=0, color=color)
        top = max(*predicted, *true)
        axis.plot([0, top], [0, top], color="grey", linewidth=0.8)
        where = f"{_where(row)}, seed {row['seed']}, tau {row['tau']:.3f}"
        axis.set_ylim(top=1.3 * top)
        write_title(axis, f"{title}\n{where}")
        axis.set_xlabel("true test accuracy", fontsize="small")
        axis.set_ylabel("predicted", fontsize="small")
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    save_figure(path, figure)


report_generalization = rows_report(COMMAND, _parts, save_scatter)
