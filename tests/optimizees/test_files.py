import errno
import os
from pathlib import Path

import pytest

from optimizees.files import has_files, holds_tensors, printable, settle_description
from optimizees.files import write_whole as write


@pytest.fixture(
    params=[OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
    ids=["full disk", "interrupt"],
)
def fault(request):
    return request.param


@pytest.mark.parametrize("moment", ["fsync", "replace", "open"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, moment, fault):
    def fail(*_args, **_kwargs):
        raise fault

    write(tmp_path / "file", b"before")
    monkeypatch.setattr(os if moment == "fsync" else Path, moment, fail)
    with pytest.raises(type(fault)):
        write(tmp_path / "file", b"after")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_written_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: [synced.append(file), fsync(file)])
    write(tmp_path / "deep" / "file", b"content")
    assert len(synced) == 1
    assert (tmp_path / "deep" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x10" + bytes(7)])
def test_what_is_empty_or_damaged_holds_no_tensors(tmp_path, content):
    assert not holds_tensors(tmp_path / "file")
    (tmp_path / "file").write_bytes(content)
    assert not holds_tensors(tmp_path / "file")


def test_empty_files_do_not_count(tmp_path):
    (tmp_path / "one").touch()
    assert not has_files(tmp_path, "*")
    (tmp_path / "two").write_bytes(b"x")
    assert has_files(tmp_path, "*")
    assert not has_files(tmp_path / "missing", "*")


class TestDescriptions:
    def test_one_without_a_population_is_replaced(self, tmp_path):
        path = tmp_path / "park.json"
        settle_description(path, {"seed": 1}, is_binding=False)
        settle_description(path, {"seed": 2}, is_binding=False)
        settle_description(path, {"seed": 2}, is_binding=True)
        with pytest.raises(ValueError, match=r"others for seed\. Repeat them"):
            settle_description(path, {"seed": 1}, is_binding=True)

    @pytest.mark.parametrize("content", ["", "{", "[]", "<html></html>"])
    def test_a_damaged_one_is_named(self, tmp_path, content):
        path = tmp_path / "park.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"park\.json.*or restore the file"):
            settle_description(path, {"seed": 1}, is_binding=True)


def test_text_of_a_file_is_only_shown():
    assert printable("a\x1b[31m\n\u202e") == "a\\x1b[31m\\n\\u202e"
    assert len(printable("x" * 1000)) < 210
