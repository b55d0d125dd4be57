"""Options of a benchmark from a YAML file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FLAG = "--config"


def with_options_of_file(arguments: Sequence[str]) -> list[str]:
    """Replace `--config FILE` by the options in the file.

    Keys are the names of options, with dots or as mappings for those of a group; an
    option that also stands on the command line is taken from there.

    Args:
        arguments: of a command line.

    Returns:
        The same without `--config`; unchanged where there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if nothing follows `--config`, or the file is no mapping.
    """
    if FLAG not in arguments:
        return list(arguments)
    place = list(arguments).index(FLAG)
    if place + 1 == len(arguments):
        raise ValueError(f"{FLAG} needs the path of a YAML file; got none. Name one.")
    path = Path(arguments[place + 1])
    before, after = arguments[:place], arguments[place + 2 :]
    given = {
        item.partition("=")[0].removeprefix("--no-").removeprefix("--")
        for item in (*before, *after)
    }
    found = [
        part
        for name, value in _flat(_read(path))
        if name not in given
        for part in _written(name, value)
    ]
    return [*before, *found, *after]


def _read(path: Path) -> Mapping[str, Any]:
    from meta_train.yaml_file import read_yaml  # extra [train]

    values = read_yaml(path, owner=FLAG, shipped="benchmarks/configs")
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{FLAG} needs a file of options and values; got {path}, which holds "
            f"{type(values).__name__}. Write for example `steps: 1000`."
        )
    return values


def _flat(values: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value of each option, groups joined by dots."""
    for key, value in values.items():
        name = group + str(key).replace("_", "-")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _written(name: str, value: Any) -> list[str]:
    """Return an option in the form of a command line."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *map(str, values)]
