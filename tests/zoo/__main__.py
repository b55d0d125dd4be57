"""Trace the whole zoo and write the table beside this file: `python -m zoo`."""

from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.report import github_table
from l2o.graph import permute_parameters, random_permutations
from tests.zoo import FULL_SIZE, SMALL, Specimen
from tests.zoo.prepared import prepare
from tests.zoo.reach import measure

_HEADERS = (
    *("network", "parameters", "groups", "blocks", "ties"),
    *("placed", "hidden neurons", "entries", "outputs move by"),
)

_TEXT = """\
# The zoo

Networks to trace. *Placed*: share of the parameter entries whose place in the graph is
certain. *Hidden neurons*: share that some symmetry of the graph lets change places.
*Entries*: share of all parameter entries that one random permutation moves. *Outputs
move by*: largest change of an output under it, against the largest output, in float64
({exceptions} compute partly in float32).

## Small

{small}

## Other libraries' models in full size

{full_size}

Made by `python -m zoo`, in `tests`; {versions}.
"""


def _row(name: str, specimen: Specimen) -> list[str]:
    subject = prepare(specimen)
    graph = subject.graph
    reach = measure(graph, subject.params, draws=1)
    orders = random_permutations(graph, torch.Generator().manual_seed(0))
    moved = subject.distance(permute_parameters(graph, orders, subject.params))
    shares = (reach.placed, reach.neurons, reach.entries)
    return [
        name,
        f"{graph.num_parameters:,}",
        *(str(len(part)) for part in (graph.groups, graph.blocks, graph.ties)),
        *(f"{share:.1%}" for share in shares),
        f"{moved:.0e}",
    ]


def main() -> None:
    """Trace everything; this takes some minutes."""
    torch.set_num_threads(1)
    tables = []
    for networks in (SMALL, FULL_SIZE):
        rows = []
        for name, specimen in networks.items():
            rows.append(_row(name, specimen))
            print(*rows[-1])
        tables.append(github_table(rows, _HEADERS))
    text = _TEXT.format(
        small=tables[0],
        full_size=tables[1],
        exceptions=", ".join(
            name for name, item in FULL_SIZE.items() if item.tolerance > 1e-9
        ),
        versions=", ".join(
            f"{name} {version(name)}"
            for name in ("torch", "torchvision", "timm", "transformers")
        ),
    )
    Path(__file__).with_name("README.md").write_text(text)


main()
