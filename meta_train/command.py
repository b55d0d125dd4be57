"""The command line of meta-training."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .config import load_config
from .distributed import joined_ranks
from .loop import MetaTrainer


def meta_train(
    config: tyro.conf.Positional[Path],
    *,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    folder: Path | None = None,
    resume: bool = False,
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None,
    max_minutes: float | None = None,
    until: int | None = None,
    tensorboard: bool = False,
) -> None:
    """Meta-train a rule as a YAML file says.

    Several processes share a run under `torchrun --nproc-per-node N -m meta_train`.

    Args:
        config: the run, for example meta_train/configs/ff-imitation.yaml.
        changes: settings in place of the file's: seed=1 estimator.replay=0.25
        folder: where the run is kept; by default runs/ and the run's name.
        resume: continue the run in the folder, bit for bit.
        threads: CPU threads; by default all cores.
        max_minutes: stop, with a checkpoint, after this many minutes.
        until: stop, with a checkpoint, after this outer step.
        tensorboard: write the log for TensorBoard, too; needs that package.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = load_config(config, changes)
    home = Path("runs") / settings.name if folder is None else folder
    with joined_ranks() as ranks:
        trainer = MetaTrainer(
            settings, home, resume=resume, ranks=ranks, tensorboard=tensorboard
        )
        trainer.train(max_minutes=max_minutes, until=until)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    try:
        tyro.cli(meta_train, args=arguments, prog="l2o meta-train")
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; continue with --resume.\n")
        return 130
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.stderr.write(f"l2o meta-train: {error}\n")
        return 1
    return 0
