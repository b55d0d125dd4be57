"""Pages of results: tables, where rows come from, the files they are written to."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from l2o.files import write_whole
from meta_train.log import read_json_lines

from .runs import Row


def github_table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a table as GitHub reads it, with every cell as it is."""
    from tabulate import tabulate

    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def table_of(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Return a table with one line per row.

    Args:
        rows: the lines.
        columns: header to the format of its cells, such as `{seconds:.2f}`, in order;
            names are those of a row.
    """
    lines = [[cell.format(**row) for cell in columns.values()] for row in rows]
    return github_table(lines, list(columns))


NETWORK_COLUMNS = {"network": "{network}", "parameters": "{num_parameters:,}"}
"""Columns of `table_of` that say what was measured."""


def rows_report(
    command: str,
    build: Callable[[list[Row]], Sequence[str]],
    draw: Callable[[list[Row], Path], object] | None = None,
) -> Callable[[Path], str]:
    """Return the `report` of a benchmark whose page is about all rows of a file.

    Args:
        command: what made the rows.
        build: returns the paragraphs of the page, tables among them.
        draw: called with the rows and the path of the picture; None for no picture.

    Returns:
        A function of the JSON lines file. It writes `.md` and `.png` with its name,
        returns the text and raises FileNotFoundError if there are no rows.
    """

    def report(results: Path) -> str:
        rows = read_json_lines(require_rows(results, command))
        parts = build(rows)
        if draw is not None:
            draw(rows, results.with_suffix(".png"))
        return write_report(results, [*parts, f"Made by `{command}`."])

    return report


def require_rows(results: Path, command: str) -> Path:
    """Return the file, which must have rows, in itself or in its archive."""
    packed = results.with_name(f"{results.name}.gz")
    if not packed.is_file() and not read_json_lines(results):
        raise FileNotFoundError(
            f"report needs rows in {results}; got none. Run `{command}` first, or name "
            "another file with --results."
        )
    return results


def write_report(results: Path, parts: Sequence[str]) -> str:
    """Write paragraphs next to the results, whole or not at all; return the text.

    Args:
        results: the JSON lines file; `.md` is written with its name.
        parts: paragraphs, tables among them; empty ones are left out.
    """
    parts = [part for part in parts if part]
    text = "\n\n".join(parts) + "\n"
    write_whole(results.with_suffix(".md"), text.encode())
    return text


def origin_of(rows: list[Row]) -> str:
    """Say by which commit, on which machine the rows were made."""
    found = [row["provenance"] for row in rows]
    commits = sorted({item["commit"] for item in found})
    torch = sorted({item["versions"]["torch"] for item in found})
    machines = sorted({_machine(item) for item in found})
    return (
        f"{len(rows)} rows; commit {', '.join(commits)}; torch {', '.join(torch)}; "
        f"{'; '.join(machines)}."
    )


def _machine(origin: Row) -> str:
    machine = origin["machine"]
    return f"{machine['processor']}, {machine['threads']} CPU thread(s)"
