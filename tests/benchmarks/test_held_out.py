from typing import get_args

import pytest

from benchmarks.held_out import HeldOutConfig, batch_size
from optimizees.named_tasks import HeldOutTask


@pytest.mark.parametrize("task", get_args(HeldOutTask))
def test_every_task_has_a_batch_size_and_runs_by_default(task):
    assert batch_size(task) > 0
    assert task in HeldOutConfig().tasks
