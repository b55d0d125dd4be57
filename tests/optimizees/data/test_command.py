"""`l2o data locate`, `download` and `verify`."""

import sys

from l2o.cli import main
from optimizees.data import command


def test_data_is_located_and_verified(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["data", "locate", "cifar-10"]) == 1
    assert "l2o data download cifar-10" in capsys.readouterr().err
    assert main(["data", "verify", "cifar-10", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "test_batch.bin: missing" in said.out
    assert "got 6 of 6" in said.err


def test_data_is_downloaded_with_what_the_user_says(tmp_path, capsys, monkeypatch):
    asked = {}

    def download(name, dest, **settings):
        asked.update(settings, name=name, dest=dest)
        return dest

    monkeypatch.setattr(command, "fetch", download)
    arguments = ["data", "download", "cifar-10", "--dest", str(tmp_path)]
    assert main([*arguments, "--base-url", "http://mirror"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)
    assert asked == {
        "name": "cifar-10",
        "dest": tmp_path,
        "base_url": "http://mirror",
        "progress": None,
    }


def test_progress_of_a_download_is_drawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = command._show_progress()
    assert show is not None
    show("file", 1_000_000, None)
    show("file", 2_000_000, 2_000_000)
    assert capsys.readouterr().err == "\rfile: 1.0 MB\rfile: 2.0 of 2.0 MB\n"
