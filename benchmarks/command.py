"""The verbs `l2o benchmark NAME` and `l2o report NAME`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .catalogue import BENCHMARKS, load_benchmark, names_of
from .options_file import with_options_of_file

_HELP = {
    "benchmark": "Run a benchmark: append the rows that are missing.",
    "report": "Write the page of a benchmark from its rows, and print it.",
}


@dataclass(frozen=True, kw_only=True)
class _ReportOptions:
    results: Path | None = None
    """Rows to read, a JSON lines file; None for the benchmark's own in
    benchmarks/results. For meta-train, the folder of a run or of several."""


def benchmark(arguments: Sequence[str]) -> int:
    """Run a benchmark: append the rows that are missing.

    Args:
        arguments: what follows `l2o benchmark`. `--config FILE.yaml` reads options.

    Raises:
        SystemExit: after `--help`, and for unusable arguments.
        ValueError: if there is no such benchmark, or an option's value is refused.
        OSError: if data is missing or results cannot be written.
    """
    name = _name_of("benchmark", arguments)

    import tyro  # extra [train]; behind the list, which needs no package

    module = load_benchmark(name, "benchmark")
    config = tyro.cli(
        type(module.CONFIG),
        default=module.CONFIG,
        prog=f"l2o benchmark {name}",
        description=module.__doc__,
        args=with_options_of_file(arguments[1:]),
        config=(tyro.conf.OmitArgPrefixes,) if BENCHMARKS[name].flat else (),
    )
    module.run(config, print)
    return 0


def report(arguments: Sequence[str]) -> int:
    """Write the page of a benchmark from its rows, and print it.

    Prints the text and the names of the files that hold it and its picture.

    Args:
        arguments: what follows `l2o report`.

    Raises:
        SystemExit: after `--help`, and for unusable arguments.
        ValueError: if there is no such benchmark, or its rows are damaged.
        OSError: if there are no rows or the page cannot be written.
    """
    name = _name_of("report", arguments)

    import tyro  # extra [train]; behind the list, which needs no package

    module = load_benchmark(name, "report")
    options = tyro.cli(
        _ReportOptions,
        prog=f"l2o report {name}",
        description=f"{_HELP['report']} {BENCHMARKS[name].summary}",
        args=arguments[1:],
    )
    results = module.ROWS if options.results is None else options.results
    try:
        text = module.report(results)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"l2o report {name} needs rows that its benchmark made; got {results}, "
            f"which lacks {error}. Name another file with --results."
        ) from error
    print(text)
    files = [results.with_suffix(end) for end in (".md", ".png")]
    print("Written:", ", ".join(str(file) for file in files if file.is_file()))
    return 0


def _name_of(verb: Literal["benchmark", "report"], arguments: Sequence[str]) -> str:
    """Return the benchmark that is asked for; list all of them where none is.

    Raises:
        SystemExit: with the list, if the first argument is no name.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    names = names_of(verb)
    width = max(map(len, names))
    lines = [f"    {name:{width}}  {BENCHMARKS[name].summary}" for name in names]
    text = "\n".join(
        [f"usage: l2o {verb} NAME [-h] [OPTIONS]", "", _HELP[verb], "", *lines, ""]
    )
    is_help = arguments[:1] in (["-h"], ["--help"])
    (sys.stdout if is_help else sys.stderr).write(text)
    raise SystemExit(0 if is_help else 2)
