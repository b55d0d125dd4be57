"""Files appear whole or not at all; text from files is only shown."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from l2o.files import parse_json, printable, read_state, write_whole


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    return tmp_path / "file"


@pytest.fixture
def umask():
    """Set the umask; put it back at the end."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


class TestInterruptedWrites:
    @pytest.fixture(params=["fsync", "open", "replace"])
    def moment(self, request):
        """When the write fails."""
        return request.param

    @pytest.fixture(
        params=[OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
        ids=["full disk", "interrupt"],
    )
    def fault(self, request):
        return request.param

    def break_at(self, monkeypatch, moment, fault):
        def fail(*_args, **_kwargs):
            raise fault

        monkeypatch.setattr(os if moment == "fsync" else Path, moment, fail)

    def test_the_previous_file_survives(self, path, monkeypatch, moment, fault):
        self.break_at(monkeypatch, moment, fault)
        with pytest.raises(type(fault)):
            write_whole(path, b"after")
        monkeypatch.undo()
        assert path.read_bytes() == b"before"
        assert os.listdir(path.parent) == [path.name]

    def test_a_new_file_is_not_begun(self, tmp_path, monkeypatch, moment, fault):
        self.break_at(monkeypatch, moment, fault)
        with pytest.raises(type(fault)):
            write_whole(tmp_path / "new", b"content")
        monkeypatch.undo()
        assert os.listdir(tmp_path) == []

    def test_a_write_that_is_cut_short(self, path):
        """The file may not grow as far as it must."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_whole(path, bytes(2**20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == b"before"
        assert os.listdir(path.parent) == [path.name]

    def test_without_a_fault_the_new_file_is_whole(self, path):
        write_whole(path, b"after")
        assert path.read_bytes() == b"after"
        assert os.listdir(path.parent) == [path.name]


class TestPermissions:
    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_a_new_file_gets_what_the_umask_leaves(self, tmp_path, umask, mask):
        umask(mask)
        write_whole(tmp_path / "new", b"")
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~mask

    def test_a_file_that_was_private_stays_private(self, path, umask):
        path.chmod(0o600)
        write_whole(path, b"after")
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_link_stays_a_link(self, path, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(path)
        write_whole(link, b"after")
        assert link.is_symlink()
        assert path.read_bytes() == b"after"

    def test_a_long_name_does_not_become_too_long(self, tmp_path):
        write_whole(tmp_path / ("x" * 250), b"content")
        assert os.listdir(tmp_path) == ["x" * 250]


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "a\nb", "\r", "\x07", "\u202e", "\u2028", "\udc80", "\x9b"]
)
def test_no_control_character_is_shown(text):
    assert not text.isprintable()
    assert printable(f"a{text}b").isprintable()


def test_plain_text_is_shown_as_it_is():
    assert printable("naïve [ok], 漢字") == "naïve [ok], 漢字"
    assert len(printable("x" * 1000)) < 210


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10**6, '{"a": 1, "a": 2}', b"\xff\xfe{"]
)
def test_json_of_a_stranger(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_json_of_a_friend():
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02."])
def test_a_damaged_state_is_a_value_error(tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt cannot be read"):
        read_state(tmp_path / "state.pt")
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "missing.pt")


def test_a_seek_before_the_beginning_is_damage(tmp_path, monkeypatch):
    """What torch raises for a directory of an archive that points there."""

    def fail(*_args, **_kwargs):
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "state.pt").write_bytes(b"x")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ValueError, match=r"state\.pt cannot be read"):
        read_state(tmp_path / "state.pt")
