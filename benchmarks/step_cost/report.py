"""Rows of `l2o benchmark step-cost` as tables, one per network."""

from collections.abc import Sequence
from typing import Any

from benchmarks.report import github_table, origin_of, rows_report
from benchmarks.runs import Row

from .subjects import COMPILED, GRADIENTS, LABELS, SubjectName

RELEASED_FORWARD_MS = 227.0
"""Time of the rule's forward pass alone, in the paper's released implementation of
NG-GNN on this network with one CPU thread; measured once, on other hardware."""

_BASES: tuple[SubjectName, ...] = (
    *("forward-backward", "forward-backward-32", "forward-backward-128"),
    "muon-float32",
)
"""What others are compared with in the overview."""
_GRADIENT, _ADAM, _PYG = "forward-backward", "adam-fused", "default-pyg"

_NOTES = """\
Each line was measured in a process of its own. Median: of so many times, behind a
first one that makes the state and compiles; where the first took longer than
{seconds:g} s, it is what counts. With one thread on a CPU, times are CPU times.
Quartiles tell the spread. Peak memory: how far the
process's resident set (on a GPU, what torch's allocator held) rose above weights,
gradients and state. State: floats per parameter that the optimizer keeps. GFLOP: matrix
products and convolutions as torch's `FlopCounterMode` counts them, in 1e9, without the
elementwise work between them, in the eager form; blank where counting would take
another long call. Product: what a plain matrix product reached, in the same process and
in turns with the steps. Over the floor: the time over what these GFLOP take at that
speed. Products in float32: at PyTorch's precision *{matmul_precision}*.

Gradients are noise and rules are untrained: values do not change the cost. *NG-GNN on
PyTorch Geometric* is the same rule with the same weights on an edge list, as a user of
that library would write it. *Per-parameter MLP of PyLO's form* is our own code in plain
PyTorch, without fused kernels, after the description of `small_fc_lopt`; it is not
PyLO's code."""


def _page(rows: list[Row]) -> list[str]:
    """Return an overview, then a section for each network."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    parts = ["# What a step costs", _overview(rows, networks)]
    for network in networks:
        found = [row for row in rows if row["network"] == network]
        parts += [_heading(network, found), cost_table(found)]
    notes = _NOTES.format(**{"matmul_precision": "highest"} | rows[0]["settings"])
    return [*parts, _compare_forward(rows), origin_of(rows), notes]


report_step_cost = rows_report("l2o benchmark step-cost", _page)


def cost_table(rows: Sequence[Row]) -> str:
    """Return the table of one network."""
    known = {row["subject"]: row for row in rows}
    return github_table(
        [_cells(row, known) for row in rows],
        (
            *("what", "median ms", "quartiles ms", "times", "first ms"),
            *(
                "over forward + backward",
                "over fused Adam",
                "over PyG",
                "peak MiB",
                "state",
            ),
            *("GFLOP", "GFLOP/s", "product", "over the floor"),
        ),
    )


def ratio(row: Row, other: Row | None) -> str:
    """Return how many times another row's time a row takes; blank if unknown."""
    if other is None or "median_ms" not in other or "median_ms" not in row:
        return ""
    return f"{row['median_ms'] / other['median_ms']:.3g}"


def _overview(rows: Sequence[Row], networks: Sequence[str]) -> str:
    """Return the time of every subject over those of others, a table for each."""
    known = {(row["network"], row["subject"]): row for row in rows}
    steps = list(dict.fromkeys(row["subject"] for row in rows))
    parts = []
    for base in _BASES:
        lines = [
            [
                LABELS[item],
                *(_share(known, network, item, base) for network in networks),
            ]
            for item in steps
            if item not in GRADIENTS and item != base
        ]
        if lines and base in steps:
            table = github_table(lines, ("what", *networks))
            parts.append(f"Time over that of {LABELS[base]}:\n\n{table}")
    return "\n\n".join(parts)


def _share(
    known: dict[tuple[str, str], Row], network: str, subject: str, base: str
) -> str:
    row = known.get((network, subject))
    if row is None:
        return ""
    return ratio(row, known.get((network, base))) or row["status"].replace(
        "measured", ""
    )


def _heading(network: str, rows: Sequence[Row]) -> str:
    alone = [row for row in rows if row["subject"] not in GRADIENTS] or rows
    measured = next((row for row in [*alone, *rows] if "batch" in row), None)
    if measured is None:
        return f"## {network}"
    placed = [
        row["placed_share"] for row in rows if row.get("placed_share") is not None
    ]
    share = f", {placed[0]:.1%} of them placed in the neural graph" if placed else ""
    return (
        f"## {network}\n\n{measured['num_parameters']:,} parameters{share}; forward "
        f"and backward on {measured['batch']}."
    )


def _cells(row: Row, known: dict[str, Row]) -> list[str]:
    name = LABELS[row["subject"]]
    if row["status"] != "measured":
        return [name, row["status"], *[""] * 12]
    quartiles = row["quartiles_ms"]
    spread = "" if quartiles is None else " to ".join(map(_number, quartiles))
    gflop = _gflop(row, known)
    return [
        name,
        _number(row["median_ms"]),
        spread,
        str(row["repetitions"]),
        _number(row["first_ms"]),
        ratio(row, known.get(_GRADIENT)),
        ratio(row, known.get(_ADAM)),
        ratio(row, known.get(_PYG)),
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.1f}",
        f"{row['state_floats']:.2f}",
        "" if gflop is None else _number(gflop),
        "" if gflop is None else _number(1000 * gflop / row["median_ms"]),
        _number(row["product_gflop_per_s"]),
        _over_floor(row, gflop),
    ]


def _over_floor(row: Row, gflop: float | None) -> str:
    """Return a row's time over that of its products at a plain product's speed."""
    if not gflop:
        return ""
    return f"{row['median_ms'] * row['product_gflop_per_s'] / gflop / 1000:.3g}"


def _gflop(row: Row, known: dict[str, Row]) -> float | None:
    """Return the operations of a row; a compiled step does those of the eager one."""
    if row["subject"] in COMPILED:
        row = known.get(row["subject"].removesuffix("-compiled"), row)
    return row.get("gflop")


def _number(value: float) -> str:
    """Write a number with three significant digits or more, and no exponent."""
    digits = 3 if value < 1 else 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f}"


def _compare_forward(rows: Sequence[Row]) -> str:
    """Compare the paper-sized rule with the released code, as far as that is fair."""
    found: list[dict[str, Any]] = [
        row
        for row in rows
        if (row["network"], row["subject"]) == ("fashion-cnn", "paper-forward")
        and row.get("gflop") is not None
    ]
    if not found:
        return ""
    ours = found[0]
    speed, product = (
        1000 * ours["gflop"] / ours["median_ms"],
        ours["product_gflop_per_s"],
    )
    threads = ours["settings"]["threads"]
    return (
        "For the forward pass of the paper's NG-GNN alone on its FashionMNIST network, "
        f"the released implementation took {RELEASED_FORWARD_MS:.0f} ms with one "
        f"thread, on other hardware; ours takes {ours['median_ms']:.0f} ms here with "
        f"{threads}. The two times are no ratio of speeds. What can be compared within "
        f"this run: ours does {ours['gflop']:.2f} GFLOP in matrix products at "
        f"{speed:.1f} GFLOP/s, {speed / product:.0%} of what one plain product reaches "
        f"({product:.1f})."
    )
