"""torch's own tests of optimizers, where their file is at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path.home() / ".cache" / "l2o" / "torch_test_optim.py"

NOT_RUN = {
    "test_forloop_goes_right_direction_multigpu": "one optimizer serves one device",
    "test_state_dict_with_cuda_params": "no GPU; and it wants `step` on the CPU, while "
    "ours lies with its parameter, so that a step never waits for the device",
    "test_rosenbrock_sparse": "sparse gradients are refused by name",
    "test_complex": "complex parameters are refused by name",
    "test_complex_2d": "complex parameters are refused by name",
    "test_foreach_matches_forloop": "there is no foreach variant of a network",
    "test_mixed_device_dtype": "there are neither foreach nor fused variants",
    "test_set_default_dtype_works_with_foreach": "there is no foreach variant",
    "test_foreach_large_tensor": "there is no foreach variant",
    "test_peak_memory_foreach": "there is no foreach variant",
    "test_fused_matches_forloop": "there is no fused variant",
    "test_fused_error_on_params_on_meta": "there is no fused variant",
    "test_fused_large_tensor": "there is no fused variant",
    "test_fused_does_not_step_if_foundinf": "there is no fused variant",
    "test_fused_cpu_matches_cuda": "there is no fused variant",
    "test_cpu_load_state_dict": "there are neither fused nor capturable variants",
    "test_defaults_changed_to_foreach": "there is no foreach variant",
    "test_second_order_optims_return_consistent_types": "a step needs no closure",
}
"""All of torch's tests of optimizers that do not run here, and why."""


def find_suite():
    """Return torch's test file, or skip."""
    path = Path(os.environ.get("L2O_TORCH_TEST_OPTIM", CACHE))
    if not path.is_file():
        pytest.skip(
            f"torch's test_optim.py is not at {path}: run PYTHONPATH=tests python -m "
            "contract.torch_suite fetch, or name the file in L2O_TORCH_TEST_OPTIM"
        )
    return path


@pytest.mark.slow
def test_torchs_own_suite_passes():
    path = find_suite()
    pytest.importorskip("expecttest", reason="torch's test machinery needs expecttest")
    process = subprocess.run(
        [sys.executable, "-m", "contract.torch_suite", "run", str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    found = json.loads(process.stdout)
    passed = [name for name, outcome in found.items() if outcome == "ok"]
    others = {name: outcome for name, outcome in found.items() if outcome != "ok"}
    assert len(passed) >= 30
    unexplained = {
        name: outcome
        for name, outcome in others.items()
        if not (outcome.startswith("skipped") and name.split("_with_")[0] in NOT_RUN)
        and name not in NOT_RUN
    }
    assert not unexplained


@pytest.mark.slow
def test_the_table_names_tests_that_exist():
    """What has another name by now would be an excuse for nothing."""
    text = find_suite().read_text()
    assert all(f"def {name}(" in text for name in NOT_RUN)
