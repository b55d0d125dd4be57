"""Does everything work on a GPU, and how fast? In under ten minutes.

Four parts, each in a process of its own with a limit: the tests marked `gpu`, the cost
of a step, the speed of meta-training by estimator, and a few outer steps of the paper's
recipe. Each leaves one row that says whether it passed; step-cost and meta-speed also
write rows of their own next to it. A part that fails does not stop the others, but the
command ends with exit code 1. Without a GPU it does nothing and says so, with exit code
1, too.

`--rehearse` runs the same parts on the CPU with tiny sizes, in a few minutes, to
see that they run. Its rows go to a folder under `runs`.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

import meta_train
from meta_train.log import read_json_lines, write_json_lines
from meta_train.provenance import provenance

from .report import github_table, origin_of, rows_report
from .runs import RESULTS, Row, config_values

ROWS = RESULTS / "gpu-check.jsonl"

PartName: TypeAlias = Literal["tests", "step-cost", "meta-speed", "meta-train"]

_ROOT = Path(__file__).parents[1]
_RECIPE = Path(meta_train.__file__).parent / "configs" / "paper" / "ng-gnn.yaml"
_MAIN = "import sys; from l2o.cli import main; sys.exit(main(sys.argv[1:]))"
_REHEARSED = Path("runs/gpu-check")


@dataclass(frozen=True, kw_only=True)
class GpuCheckConfig:
    """Which parts run, and where their rows go."""

    parts: tuple[PartName, ...] = ("tests", "step-cost", "meta-speed", "meta-train")
    """What to do, in order."""
    rehearse: bool = False
    """Whether this is a rehearsal: on the CPU, with tiny sizes."""
    results: Path = ROWS
    """JSON lines file, written anew; not used by a rehearsal."""


CONFIG = GpuCheckConfig()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: a command, how long it may take, what it found."""

    name: PartName
    """Which one."""
    command: list[str]
    """What runs."""
    limit_s: float
    """Seconds after which it is stopped; all together are under ten minutes."""
    figures: Callable[[str], dict[str, Any]]
    """Returns what its row says of it, from its output."""


def run(config: GpuCheckConfig, announce: Callable[[str], object]) -> None:
    """Run all parts, each in a process; write one row each.

    Raises:
        ValueError: if there is no GPU.
        RuntimeError: if a part failed, at the end.
    """
    if not config.rehearse and not torch.cuda.is_available():
        raise ValueError(
            "gpu-check needs a GPU that torch can use; got none. Run it where there is "
            "one, or pass --rehearse to see on the CPU that it runs."
        )
    results = _REHEARSED / ROWS.name if config.rehearse else config.results
    results.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in plan(config, results.parent.resolve(), Path(folder)):
            announce(f"{part.name}: at most {part.limit_s:.0f} s")
            row = {**_run_part(part), "config": config_values(config)}
            rows.append({**row, "provenance": provenance()})
            write_json_lines(results, rows)
            announce(f"{part.name}: {row['status']} after {row['seconds']:.0f} s")
    announce(report(results))
    failed = [row["part"] for row in rows if row["status"] != "passed"]
    if failed:
        raise RuntimeError(
            f"gpu-check needs every part to pass; got failures of {', '.join(failed)}. "
            f"Their last lines are in {results}."
        )


def plan(config: GpuCheckConfig, rows: Path, folder: Path) -> list[Part]:
    """Return the parts to run.

    Args:
        config: which parts, and whether it is a rehearsal.
        rows: folder for rows of step-cost and meta-speed.
        folder: for the run of meta-training; temporary.
    """
    tiny, device = config.rehearse, "cpu" if config.rehearse else "cuda"
    verb = [sys.executable, "-c", _MAIN]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short"]
    tests += ["-p", "no:cacheprovider", "--accelerator", device, str(_ROOT / "tests")]
    step_cost = [*verb, "benchmark", "step-cost", "--device", device]
    step_cost += ["--results", str(rows / "gpu-step-cost.jsonl"), "--models"]
    step_cost += ["mlp-10k"] if tiny else ["fashion-cnn", "resnet-18"]
    step_cost += ["--subjects", "forward-backward", "adam-fused", "default"]
    step_cost += ["--seconds", "1" if tiny else "3", "--limit-s", "60"]
    meta_speed = [*verb, "benchmark", "meta-speed", "--device", device]
    meta_speed += ["--results", str(rows / "gpu-meta-speed.jsonl")]
    meta_speed += ["--compile", "False", "--repetitions", "2" if tiny else "3"]
    meta_speed += ["--rules", "default-ff", *([] if tiny else ["default"])]
    recipe = [*verb, "meta-train", str(_RECIPE), "--device", device]
    recipe += ["--folder", str(folder / "run"), "--until", "2" if tiny else "4"]
    changes = ["compile=false", "data=auto", "validation.with_test=false"]
    if tiny:
        changes += ["steps_per_outer=2", "unroll=[2, 2]", "rule=paper-ff"]
    recipe += ["--set", *changes]
    parts = [
        Part(
            name="tests",
            command=[*tests, *(["-k", "perceptron"] if tiny else [])],
            limit_s=250,
            figures=_test_figures,
        ),
        Part(
            name="step-cost",
            command=step_cost,
            limit_s=120,
            figures=lambda _: _step_figures(rows / "gpu-step-cost.jsonl"),
        ),
        Part(
            name="meta-speed",
            command=meta_speed,
            limit_s=140,
            figures=lambda _: _speed_figures(rows / "gpu-meta-speed.jsonl"),
        ),
        Part(
            name="meta-train",
            command=recipe,
            limit_s=80,
            figures=lambda _: _recipe_figures(folder / "run" / "log.jsonl"),
        ),
    ]
    return [part for part in parts if part.name in config.parts]


def _run_part(part: Part) -> Row:
    """Run a part; return its row without where it ran."""
    start = time.monotonic()
    status, figures = "passed", {}
    try:
        done = subprocess.run(
            part.command,
            capture_output=True,
            text=True,
            check=False,
            cwd=_ROOT,
            timeout=part.limit_s,
        )
        output = done.stdout + done.stderr
        if done.returncode:
            status = f"failed with exit code {done.returncode}"
        else:
            figures = part.figures(output)
    except subprocess.TimeoutExpired as stopped:
        output = f"{stopped.stdout or ''}{stopped.stderr or ''}"
        status = "stopped at its limit"
    return {
        "part": part.name,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "limit_s": part.limit_s,
        "figures": figures,
        "last_lines": [] if status == "passed" else output.splitlines()[-15:],
    }


def _test_figures(output: str) -> dict[str, Any]:
    """Return how many tests ended how, from pytest's last line."""
    found = re.findall(r"(\d+) (passed|failed|skipped)", output)
    return {ending: int(count) for count, ending in found}


def _step_figures(path: Path) -> dict[str, Any]:
    """Return the median time of each step in milliseconds."""
    return {
        f"{row['network']}, {row['subject']}, ms": row.get("median_ms")
        for row in read_json_lines(path)
    }


def _speed_figures(path: Path) -> dict[str, Any]:
    """Return the inner steps per second of each estimator on the paper's network."""
    return {
        f"{row['rule']}, {row['estimator']}, steps/s": row["steps_per_s"]
        for row in read_json_lines(path)
        if row["network"].startswith("fashion-cnn")
    }


def _recipe_figures(path: Path) -> dict[str, Any]:
    """Return the seconds per outer step; the first one, which also traces, apart."""
    times = [line["seconds"] for line in read_json_lines(path) if "grad_norm" in line]
    return {
        "outer steps": len(times),
        "seconds per outer step": round((times[-1] - times[0]) / (len(times) - 1), 2),
    }


def _page(rows: list[Row]) -> list[str]:
    """Return a table of the parts, and what each one found."""
    lines = [
        (row["part"], row["status"], f"{row['seconds']:.0f}", f"{row['limit_s']:.0f}")
        for row in rows
    ]
    parts = [
        "# Check on a GPU",
        f"On {rows[0]['provenance']['machine']['gpu'] or 'the CPU, as a rehearsal'}.",
        github_table(lines, ("part", "status", "seconds", "limit, s")),
    ]
    for row in rows:
        figures = "\n".join(
            f"* {key}: {value}" for key, value in row["figures"].items()
        )
        ending = "\n".join(row["last_lines"])
        parts += [
            f"## {row['part']}",
            figures,
            f"```\n{ending}\n```" if ending else "",
        ]
    return [*parts, origin_of(rows)]


report = rows_report("l2o benchmark gpu-check", _page)
