"""What training on fans of dense edges gains over training edge by edge."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.protocol import now
from benchmarks.report import github_table, origin_of, rows_report
from benchmarks.runs import RESULTS, Row, config_values, use_threads
from benchmarks.step_cost.turns import Subject, time_in_turns
from l2o.companion import NetworkClassifier, inr_classifier, stack_networks
from meta_train.log import write_json_lines
from meta_train.provenance import provenance
from optimizees.devices import choose_device
from optimizees.zoo.inr_set import load_embedded_fits

from .models import NUM_CLASSES
from .tasks import GRAPH

_NAMES = {"fans": "fans of dense edges", "pyg": "PyTorch Geometric, edge by edge"}


ROWS = RESULTS / "inr-speed.jsonl"


@dataclass(frozen=True, kw_only=True)
class InrSpeedConfig:
    """Measure training of NG-GNN on small networks, in two forms of the same network.

    Both have the same weights and the same gradients. A turn is the loss of a batch of
    the embedded fits and its gradients, batches to read made in advance.
    """

    width: int = 64
    """Channels of NG-GNN."""
    batch_size: int = 48
    """Networks per turn, at most the 48 that come with the library."""
    parts: tuple[int, ...] = (16, 48)
    """Networks to differentiate at a time, in both forms; each must divide a batch."""
    repetitions: int = 7
    """Turns of each form and size."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    results: Path = ROWS
    """JSON lines file, replaced by each run; `.md` is written with its name."""

    def __post_init__(self) -> None:
        has_rest = any(part < 1 or self.batch_size % part for part in self.parts)
        if not 1 <= self.batch_size <= 48 or has_rest or self.repetitions < 1:
            raise ValueError(
                "InrSpeedConfig needs a batch_size of at most 48, parts that divide it "
                f"and at least one repetition; got {self.batch_size}, {self.parts} and "
                f"{self.repetitions}. Leave them out for the defaults."
            )


CONFIG = InrSpeedConfig()


def run(config: InrSpeedConfig, announce: Callable[[str], object]) -> None:
    """Time both forms in every size; write one row each."""
    use_threads(config.threads)
    subjects = _subjects(config, choose_device(config.device))
    for subject in subjects:
        subject.call()
    times = time_in_turns(subjects, config.repetitions)
    origin = {"config": config_values(config), "provenance": provenance()}
    origin["config"]["parts"] = list(config.parts)
    rows = []
    for name, seconds in times.items():
        form, part = name.split()
        rates = [config.batch_size / value for value in seconds]
        rows.append(
            {
                "form": form,
                "part": int(part),
                "networks_per_second": round(statistics.median(rates), 2),
                "lowest": round(min(rates), 2),
                "highest": round(max(rates), 2),
                **origin,
            }
        )
    write_json_lines(config.results, rows)
    announce(report(config.results))


def _subjects(config: InrSpeedConfig, device: torch.device) -> list[Subject]:
    """Return both forms in every size, on a device."""
    from torch_geometric.data import Batch  # takes a second, and only this needs it
    from torch_geometric.data.data import BaseData

    from l2o.companion.pyg import PyGClassifier

    fits = load_embedded_fits().select(slice(0, config.batch_size), "the first")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NetworkClassifier(
            inr_classifier("ng_gnn", width=config.width, dropout=0.0),
            num_classes=NUM_CLASSES,
        )
    batch = stack_networks(GRAPH, fits.networks)
    model.fit_statistics(batch)
    other = PyGClassifier(model)
    data: list[BaseData] = [
        other.to_data(
            GRAPH, {name: value[index] for name, value in batch.params.items()}
        )
        for index in range(len(fits))
    ]
    model.to(device)
    batch = batch.to(device)
    data = [item.to(str(device)) for item in data]
    subjects = []
    for part in config.parts:
        labels = fits.labels.to(device).split(part)
        ours = list(batch.split(part))
        theirs = [
            Batch.from_data_list(data[start : start + part])
            for start in range(0, len(data), part)
        ]
        subjects += [
            Subject(name=f"fans {part}", call=partial(_turn, model, ours, labels)),
            Subject(name=f"pyg {part}", call=partial(_turn, other, theirs, labels)),
        ]
    return subjects


def _turn(
    model: Callable[..., Tensor], batches: list, labels: tuple[Tensor, ...]
) -> None:
    """Compute the gradients of a batch, part by part; wait until they are there."""
    for batch, wanted in zip(batches, labels, strict=True):
        cross_entropy(model(batch), wanted, reduction="sum").backward()
    now(labels[0].device)


def _page(rows: list[Row]) -> list[str]:
    """Say what was measured, and how."""
    slowest = {
        row["part"]: row["networks_per_second"] for row in rows if row["form"] == "pyg"
    }
    lines = [
        (
            _NAMES[row["form"]],
            row["part"],
            f"{row['networks_per_second']:.1f}",
            f"{row['lowest']:.1f} to {row['highest']:.1f}",
            f"{row['networks_per_second'] / slowest[row['part']]:.2f}",
        )
        for row in rows
    ]
    config = rows[0]["config"]
    headers = (
        *("form", "networks at a time", "networks per second"),
        *("lowest to highest", "ratio"),
    )
    return [
        "# Training on networks that are images",
        f"NG-GNN of width {config['width']} on SIRENs of 1,185 parameters: loss and "
        f"gradients of {config['batch_size']} of them, float32, without dropout. "
        f"Medians of {config['repetitions']} turns that alternate; ratio to the form "
        "of PyTorch Geometric, which has the same weights and the same gradients.",
        github_table(lines, headers),
        origin_of(rows),
    ]


report = rows_report("l2o benchmark inr-speed", _page)
