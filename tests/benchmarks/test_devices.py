"""Whatever trains takes a device, and says in one line that one is not there."""

from contextlib import suppress

import pytest

from benchmarks.catalogue import load_benchmark, names_of
from l2o.cli import main

WITHOUT = {"optimizer-cost", "trace-cost", "gpu-check"}
"""What measures memory on the CPU and trains nothing, and what only a GPU can do."""

OPTION = {
    "step-cost": "--device",
    "scaling": "--device",
    "inr-classification": "--runs.device",
    "inr-editing": "--runs.device",
}

VERBS = {
    "demo": [],
    "validate": ["base"],
    "meta-train": ["meta_train/configs/paper/ff.yaml"],
    "search": ["meta_train/configs/search/base-rates.yaml"],
    "data wild-park": [],
    "data cnn-zoo": [],
    "data siren-fits": [],
    **{f"benchmark {name}": [] for name in names_of("benchmark")},
}


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch, request):
    """Run where nothing is written over; configurations are found all the same."""
    configs = request.config.rootpath / "meta_train"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta_train").symlink_to(configs)


@pytest.mark.parametrize("verb", [v for v in VERBS if v.split()[-1] not in WITHOUT])
def test_a_device_that_is_not_there_is_one_line(verb, capsys):
    option = OPTION.get(verb.removeprefix("benchmark "), "--device")
    assert main([*verb.split(), *VERBS[verb], option, "tpu9"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "got 'tpu9'" in line
    assert line.endswith("Choose auto or cpu.")


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_what_trains_nothing_takes_none(name, capsys):
    with suppress(SystemExit):
        assert main(["benchmark", name, "--device", "cpu"]) != 0
    assert "device" in capsys.readouterr().err
    assert not hasattr(load_benchmark(name, "benchmark").CONFIG, "device")
