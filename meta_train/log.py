"""JSON lines: one record a line, appended, readable while the run goes on."""

import json
from pathlib import Path
from typing import Any


class JsonLines:
    """Append-only log; a resumed run drops what came after its checkpoint.

    Args:
        path: the file; created with its folder.
        last_step: keep the existing records up to this outer step; None keeps nothing.
    """

    def __init__(self, path: Path, *, last_step: int | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if last_step is None else read_json_lines(path)
        path.write_text(
            "".join(
                json.dumps(record) + "\n"
                for record in kept
                if last_step is not None and record["outer_step"] <= last_step
            )
        )

    def write(self, **values: Any) -> None:
        """Append one record."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; a last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
