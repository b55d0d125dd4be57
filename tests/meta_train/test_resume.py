import errno
import os
import pickle

import pytest
import torch

from meta_train.resume import load_checkpoint, save_checkpoint

VALUES = {"theta": {"weight": torch.arange(3.0)}, "counters": {"outer_step": 4}}


@pytest.fixture
def path(tmp_path):
    save_checkpoint(VALUES, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def test_values_come_back(path):
    found = load_checkpoint(path)
    assert found["counters"] == VALUES["counters"]
    assert torch.equal(found["theta"]["weight"], VALUES["theta"]["weight"])


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Start the run without --resume"):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("size", [0, 10, -1, -100])
def test_a_truncated_checkpoint(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="Delete it and start again"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"<html>" * 100, pickle.dumps(print, protocol=2)])
def test_a_file_of_another_kind_is_refused_and_not_run(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Delete it and start again"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()], ids=repr
)
def test_the_previous_checkpoint_survives(path, monkeypatch, fault):
    def fail(*_args):
        raise fault

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(fault)):
        save_checkpoint({"theta": {}}, path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
