"""Files that appear whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it; make its folder.

    Raises:
        OSError: if there is no room; the file that was there survives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def settle_description(path: Path, description: dict[str, Any]) -> None:
    """Write how a population is made, or check that the one there is made so.

    Args:
        path: the JSON file beside the population.
        description: what must not differ, as JSON values.

    Raises:
        ValueError: if something differs.
    """
    wanted = json.loads(json.dumps(description))
    if not path.is_file():
        write_whole(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    found = json.loads(path.read_text())
    differing = [name for name in wanted if wanted[name] != found.get(name)]
    if differing:
        raise ValueError(
            f"a generation must go on with the settings in {path}; got others for "
            f"{', '.join(differing)}. Repeat them, or choose another directory."
        )
