"""Meta-train an optimizer on a small GPT over a text file, then train with it."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import meta_train
from l2o import AbstractRule, NeuralGraphOpt, load_rule
from meta_train.config import MetaOptimizerConfig, ValidationConfig
from meta_train.estimator_config import EvolutionConfig
from optimizees import Task, text_split, text_task
from optimizees.transformer import GPT, BlockSizes

CONTEXT = 32
README = Path(__file__).parents[1] / "README.md"


def build_task(path: Path) -> Task:
    """Return the task of predicting each next character of a file."""
    text = path.read_text()
    train, held_out = (
        text_split(text, split, name=path.name) for split in ("train", "validation")
    )
    network = partial(
        GPT,
        vocabulary=len(train.vocabulary),
        context=CONTEXT,
        sizes=BlockSizes(width=16, num_blocks=1, num_heads=2),
    )
    return text_task(
        "gpt",
        network,
        train,
        batch_size=8,
        context=CONTEXT,
        held_out={"validation": held_out},
    )


def use(task: Task, rule: AbstractRule, steps: int) -> str:
    """Train a fresh network with a rule, as with any optimizer of PyTorch."""
    model, batches = task.init_model(seed=9), task.batches(9)
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    before = task.evaluate(model, "validation").loss
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model, batches.next()).backward()
        optimizer.step()
    return f"loss {before:.3f} -> {task.evaluate(model, 'validation').loss:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=README, help="a text file")
    parser.add_argument("--steps", type=int, default=20, help="of meta-training")
    arguments = parser.parse_args()
    gpt = build_task(arguments.text)
    with tempfile.TemporaryDirectory() as folder:
        learned = meta_train.train(
            gpt,
            init="base",  # a rule of few weights, which evolution changes
            rule=load_rule("base").config,
            estimator=EvolutionConfig(pairs=4, sigma=0.1, final_share=0.5),
            meta_optimizer=MetaOptimizerConfig(lr=0.03, warmup=5, weight_decay=0.0),
            folder=folder,
            outer_steps=arguments.steps,
            num_tasks=1,
            steps_per_outer=100,
            unroll=(200, 200),
            validation=ValidationConfig(every=20, steps=200, seeds=(1,)),
        )
    print(f"the rule trained on {gpt.source}: {use(gpt, learned, steps=200)}")
    print(f"the default rule: {use(gpt, load_rule('base'), steps=200)}")
