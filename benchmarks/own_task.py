"""Is a rule that is meta-trained on one's own task better there than the default?

The rule starts from a shipped one and is trained by evolution on training data of the
task; the best candidate is chosen on its validation data, from other seeds than those
that count. Then it and the default train fresh networks, from the same seeds on the
same batches.

`--factory` names any function that returns an `optimizees.Task`, as in the YAML files
of `l2o meta-train`. The task needs held-out data "validation"; "test" is measured where
there is some. By default the task is a small GPT on the manual of Python.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import meta_train
from l2o import load_rule, read_provenance
from l2o.files import write_whole
from l2o.rule.checkpoint import DEFAULT_RULE
from meta_train.config import MetaOptimizerConfig, ValidationConfig
from meta_train.estimator_config import EvolutionConfig
from meta_train.log import write_json_lines
from meta_train.provenance import provenance
from meta_train.task_config import call_factory
from meta_train.unroll import RuleOnGraph
from meta_train.validation import validate
from optimizees import FunctionalTask, Task, text_task
from optimizees.data.splits import HeldOutSplit
from optimizees.data.text import load_manual
from optimizees.devices import choose_device
from optimizees.transformer import GPT, BlockSizes

from .optimizers import rule_spec
from .report import github_table, origin_of, rows_report
from .runs import RESULTS, Row, config_values, use_threads
from .summary import spread

ROWS = RESULTS / "own-task.jsonl"

_CONTEXT = 32
"""Characters of a piece of text."""
_SPLITS: tuple[HeldOutSplit, ...] = ("validation", "test")
_TRAINED = "trained here"


def text_gpt(device: torch.device) -> Task:
    """Return the network of examples/meta_train_text.py on the manual of Python."""
    train, validation, test = (
        replace(text, tokens=text.tokens.to(device))
        for text in map(load_manual, ("train", *_SPLITS))
    )
    network = partial(
        GPT,
        vocabulary=len(train.vocabulary),
        context=_CONTEXT,
        sizes=BlockSizes(width=16, num_blocks=1, num_heads=2),
    )
    return text_task(
        "text",
        network,
        train,
        batch_size=8,
        context=_CONTEXT,
        held_out={"validation": validation, "test": test},
    )


@dataclass(frozen=True, kw_only=True)
class OwnTaskConfig:
    """What is trained, for how long, and what it is compared with."""

    factory: str = "benchmarks.own_task:text_gpt"
    """The task: a function as module:function."""
    start: str = "base"
    """Shipped rule, or path of a rule file, that meta-training starts from."""
    compared: tuple[str, ...] = (DEFAULT_RULE, "ng-gnn-neurons", "ng-gnn", "ff")
    """Rules that the trained one is compared with; the first is the default."""
    outer_steps: int = 60
    """Updates of the rule's weights."""
    steps: int = 200
    """Steps of every run."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Seeds of initial weights and batches that count."""
    threads: int | None = 1
    """CPU threads; None for all cores."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    folder: Path = Path("runs/own-task")
    """Where the run of meta-training is kept; it is continued if it is there."""
    results: Path = ROWS
    """JSON lines file, replaced by each run; the rule is written with its name."""

    def __post_init__(self) -> None:
        if min(self.outer_steps, self.steps, len(self.seeds), len(self.compared)) < 1:
            raise ValueError(
                "OwnTaskConfig needs at least one outer step, step, seed and rule to "
                f"compare with; got outer_steps={self.outer_steps}, steps={self.steps},"
                f" seeds={self.seeds}, compared={self.compared}. Raise them."
            )


CONFIG = OwnTaskConfig()


def run(config: OwnTaskConfig, announce: Callable[[str], object]) -> None:
    """Train the rule, then let all rules train networks; write a row per network."""
    use_threads(config.threads)
    task = call_factory(config.factory, choose_device(config.device))
    path = config.results.with_suffix(".safetensors")
    origin = provenance()  # of the tree before the rule is written to it
    announce(f"meta-training on {task.source}, in {config.folder}")
    seconds = _meta_train(config, task, path)
    functional = FunctionalTask(task)
    splits = [split for split in _SPLITS if task.held_out.get(split)]
    rows: list[Row] = []
    for name in (str(path), *config.compared):
        rule = load_rule(name).to(task.device)
        bound = RuleOnGraph(rule, functional, compile=False)
        for seed in config.seeds:
            found = validate(
                functional, bound, splits, seeds=(seed,), steps=config.steps
            )
            scores = {
                split: {"loss": score.loss, "metric": score.metric}
                for split, score in zip(splits, found, strict=True)
            }
            rows.append(
                {
                    "rule": _TRAINED if name == str(path) else name,
                    "rule_sha256": rule_spec(name).sha256,
                    "seed": seed,
                    "train_loss": found[0].train_loss,
                    **scores,
                    "data_source": task.source,
                    "meta_training_s": seconds if name == str(path) else None,
                    "config": config_values(config) | {"folder": None},
                    "provenance": origin,
                }
            )
            losses = ", ".join(
                f"{split} {scores[split]['loss']:.4f}" for split in splits
            )
            announce(f"{rows[-1]['rule']}, seed {seed}: loss {losses}")
    write_json_lines(config.results, rows)
    announce(report(config.results))


def _meta_train(config: OwnTaskConfig, task: Task, path: Path) -> float:
    """Meta-train a rule, or continue; write its file and return the seconds it took."""
    start = load_rule(config.start)
    meta_train.train(
        task,
        folder=config.folder,
        resume=(config.folder / "checkpoint.pt").exists(),
        rule=start.config,
        init=config.start,
        estimator=EvolutionConfig(pairs=4, sigma=0.1, final_share=0.5),
        outer_steps=config.outer_steps,
        num_tasks=1,
        steps_per_outer=config.steps // 2,
        unroll=(config.steps, config.steps),
        meta_optimizer=MetaOptimizerConfig(lr=0.03, warmup=5, weight_decay=0.0),
        validation=ValidationConfig(
            every=max(1, config.outer_steps // 4), steps=config.steps
        ),
    )
    best = config.folder / "best.safetensors"
    write_whole(path, best.read_bytes())
    return round(read_provenance(path)["seconds"], 1)


def _page(rows: list[Row]) -> list[str]:
    """Return losses of every rule, and differences from the trained one by seed."""
    config, splits = rows[0]["config"], [name for name in _SPLITS if name in rows[0]]
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for split in splits:
            losses = found.setdefault(row["rule"], {}).setdefault(split, {})
            losses[row["seed"]] = row[split]["loss"]
    trained = found[_TRAINED]
    lines = []
    for rule, losses in found.items():
        cells = [spread(list(losses[split].values()), 4) for split in splits]
        for split in splits:
            gaps = [trained[split][seed] - loss for seed, loss in losses[split].items()]
            cells.append("" if rule == _TRAINED else spread(gaps, 4))
        lines.append((rule, *cells))
    headers = (
        "rule",
        *(f"{split} loss" for split in splits),
        *(f"trained here minus it, {split}" for split in splits),
    )
    default = rows[len(config["seeds"])]["rule"]
    gaps = [
        trained["validation"][seed] - loss
        for seed, loss in found[default]["validation"].items()
    ]
    wins = sum(gap < 0 for gap in gaps)
    return [
        "# A rule that is meta-trained on the task it is used on",
        f"The rule starts from `{config['start']}` and is meta-trained on "
        f"{rows[0]['data_source']}: {config['outer_steps']} outer steps in "
        f"{rows[0]['meta_training_s']:.0f} s. Then it and shipped rules train fresh "
        f"networks for {config['steps']} steps from seeds "
        f"{', '.join(map(str, config['seeds']))}; losses in nats, mean ± standard "
        "deviation over seeds, differences by seed.",
        github_table(lines, headers),
        f"Against `{default}`, the default, the rule trained here has the lower "
        f"validation loss from {wins} of {len(gaps)} seeds, by {spread(gaps, 4)}.",
        origin_of(rows),
    ]


report = rows_report("l2o benchmark own-task", _page)
