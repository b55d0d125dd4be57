import pytest
import torch

from l2o import save_rule
from meta_train.log import read_json_lines
from meta_train.loop import MetaTrainer
from meta_train.task_config import TaskConfig

TASK = {"name": "fashion-mlp", "image_size": 7, "batch_size": 16}


@pytest.fixture
def builder(tiny, tmp_path):
    return MetaTrainer(tiny(), tmp_path).builder


class TestShelf:
    def test_a_task_is_built_once(self, builder):
        one, other = (TaskConfig(**TASK) for _ in range(2))
        assert builder.task(one) is builder.task(other)
        assert builder.bound(one) is builder.bound(other)

    def test_images_are_those_of_the_split_and_size(self, builder):
        config = TaskConfig(**TASK)
        task = builder.task(config).task
        (held_out,) = task.held_out["validation"]
        assert held_out.inputs.shape == (1000, 1, 7, 7)
        assert set(task.held_out) == {"validation"}
        assert task.source.startswith("FashionMNIST (embedded subset")
        assert list(builder.sources()) == [item.label for item in builder.config.tasks]
        assert builder.sources()[config.label] == task.source

    def test_other_shapes_are_other_graphs(self, builder):
        small, large = TaskConfig(**TASK), TaskConfig(**{**TASK, "image_size": 14})
        assert builder.bound(small).graph != builder.bound(large).graph
        assert builder.bound(small).rule is builder.bound(large).rule


class TestValidation:
    def test_several_tasks_count_alike(self, tiny, tmp_path):
        tasks = [TASK, {**TASK, "image_size": 14}]
        validation = {"every": 3, "steps": 4, "seeds": [1, 2], "tasks": tasks}
        MetaTrainer(tiny(validation=validation), tmp_path).train()
        (record,) = [
            r for r in read_json_lines(tmp_path / "log.jsonl") if "validation" in r
        ]
        parts = record["validation_tasks"]
        assert list(parts) == [
            "fashion-mlp, 7 px, batches of 16",
            "fashion-mlp, 14 px, batches of 16",
        ]
        for name, value in record["validation"].items():
            values = [part[name] for part in parts.values()]
            assert value == pytest.approx(sum(values) / 2)
            assert values[0] != values[1]

    def test_a_rule_to_start_from_is_the_first_candidate(
        self, tiny, tmp_path, random_rule
    ):
        rule = random_rule(tiny().rule_config, dtype=torch.float32)
        save_rule(rule, tmp_path / "first.safetensors")
        config = tiny(init=str(tmp_path / "first.safetensors"))
        MetaTrainer(config, tmp_path / "run").train(until=1)
        log = read_json_lines(tmp_path / "run" / "log.jsonl")
        assert [(r["outer_step"], "validation" in r) for r in log] == [
            (0, True),
            (1, False),
        ]
        assert (tmp_path / "run" / "best.safetensors").is_file()
