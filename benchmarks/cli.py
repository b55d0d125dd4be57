"""The command line `l2o`: one verb for each thing that the library can do."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from l2o import load_rule, read_provenance, shipped_rules
from optimizees import build_task, load_fashion_mnist
from optimizees.data.download import Progress, download, verify
from optimizees.data.layouts import DatasetName, require

from .command import benchmark, report
from .demo import DemoConfig, run_demo
from .graph_command import graph
from .inr.fits import SirenFitsData, run_siren_fits
from .runs import use_threads
from .workloads import DataChoice
from .zoo_commands import CnnZooData, WildParkData, run_cnn_zoo, run_wild_park

_DESCRIPTION = "Learned optimizers that see the network they train."
_EXTRAS = (
    "matplotlib",
    "pydantic",
    "schedulefree",
    "scipy",
    "tabulate",
    "tqdm",
    "tyro",
    "yaml",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status.

    Args:
        arguments: what stands behind `l2o`; None takes them from the command line.

    Raises:
        SystemExit: after `--help`, and if the arguments make no sense.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["meta-train"]:
            from meta_train.command import main as meta_train_main

            return meta_train_main(arguments[1:])
        if arguments[:1] == ["benchmark"]:
            return benchmark(arguments[1:])
        if arguments[:1] == ["report"]:
            return report(arguments[1:])
        _run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; benchmarks continue where they stopped.\n")
        return 130
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        return _fail(
            f"this verb needs the package {error.name}, which is not installed. "
            "Run pip install 'l2o[train,benchmarks]'."
        )
    except (OSError, ValueError, TypeError) as error:
        return _fail(str(error))
    return 0


def data_locate(name: DatasetName, /) -> None:
    """Say where a data set lies on this machine.

    Args:
        name: the data set.
    """
    print(require(name, None))


def data_download(
    name: DatasetName, /, *, dest: Path | None = None, base_url: str | None = None
) -> None:
    """Fetch a data set from its official address and check its checksums.

    Args:
        name: the data set.
        dest: the directory to fill; by default the cache that the loaders look in.
        base_url: a mirror; the checksums stay.
    """
    print(download(name, dest, base_url=base_url, progress=_show_progress()))


def data_verify(name: DatasetName, /, *, root: Path | None = None) -> None:
    """Say for each file of a data set whether it is the official one.

    The exit status is 1 if one is not.

    Args:
        name: the data set.
        root: the directory to look in; by default where `locate` finds it.
    """
    directory = require(name, None) if root is None else root
    print(f"in {directory}")
    found = verify(name, directory)
    print("\n".join(found))
    wrong = sum(": ok" not in sentence for sentence in found)
    if wrong:
        raise ValueError(
            f"data verify needs the official files; got {wrong} of {len(found)} that "
            f"are missing or differ. Run `l2o data download {name}`."
        )


def validate_rules(
    rules: tuple[str, ...],
    /,
    *,
    seeds: tuple[int, ...] = (9001, 9002),
    steps: int = 1000,
    schedule: Literal["constant", "linear"] = "constant",
    batch_size: int = 128,
    data: DataChoice = "auto",
    threads: int = 1,
) -> None:
    """Measure rules on the validation images, as meta-training selects them.

    Args:
        rules: shipped rules, or paths of rule files.
        seeds: of initial weights and batches.
        steps: of each run, on the paper's FashionMNIST network.
        schedule: multiplier of the updates: 1, or falling to 0 over a run.
        batch_size: images a batch.
        data: which copy of FashionMNIST.
        threads: CPU threads.
    """
    from meta_train.unroll import RuleOnGraph
    from meta_train.validation import validate

    use_threads(threads)
    train = load_fashion_mnist("train", source=data)
    images = load_fashion_mnist("validation", source=data)
    task = build_task("fashion-cnn", train, batch_size)
    for name in rules:
        bound = RuleOnGraph(load_rule(name), task, compile=False)
        is_annealed = schedule == "linear"
        (result,) = validate(
            task, bound, [images], seeds=seeds, steps=steps, is_annealed=is_annealed
        )
        print(
            f"{name}: validation accuracy {result.accuracy:.2%}, loss "
            f"{result.loss:.4f}, training loss {result.train_loss:.4f} "
            f"(n = {len(seeds)}, {steps} steps, {images.source}; {schedule} multiplier)"
        )


def rules() -> None:
    """List the rules that come with the library, and how they were made."""
    for name in shipped_rules():
        rule = load_rule(name)
        print(f"{name}: {rule.config.net.kind}, {rule.num_weights():,} weights")
        for key, value in read_provenance(name).items():
            if not isinstance(value, dict | list):
                print(f"    {key}: {value}")


def _run(arguments: list[str]) -> None:
    """Parse the arguments and do what they say."""
    import tyro

    from meta_train.command import meta_train

    app = tyro.extras.SubcommandApp()
    data = tyro.extras.SubcommandApp()
    app.command(name="demo")(DemoConfig)
    app.command(name="meta-train")(meta_train)
    app.command(name="benchmark")(benchmark)
    app.command(name="report")(report)
    app.command(data, name="data", help="Find, fetch, check and make data.")
    data.command(name="locate")(data_locate)
    data.command(name="download")(data_download)
    data.command(name="verify")(data_verify)
    data.command(name="siren-fits")(SirenFitsData)
    data.command(name="wild-park")(WildParkData)
    data.command(name="cnn-zoo")(CnnZooData)
    app.command(name="graph")(graph)
    app.command(name="rules")(rules)
    app.command(name="validate")(validate_rules)
    match app.cli(prog="l2o", description=_DESCRIPTION, args=arguments):
        case DemoConfig() as config:
            run_demo(config)
        case SirenFitsData() as config:
            run_siren_fits(config, print)
        case WildParkData() as config:
            run_wild_park(config, print)
        case CnnZooData() as config:
            run_cnn_zoo(config, print)


def _show_progress() -> Progress | None:
    """Return what draws a bar for each file if stderr is a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(file: str, received: int, total: int | None) -> None:
        share = "" if total is None else f" of {total / 1e6:.1f}"
        sys.stderr.write(f"\r{file}: {received / 1e6:.1f}{share} MB")
        if received == total:
            sys.stderr.write("\n")

    return show


def _fail(message: str) -> int:
    sys.stderr.write(f"l2o: {message}\n")
    return 1
