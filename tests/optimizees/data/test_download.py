import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from optimizees.data import cifar
from optimizees.data.download import ORIGINS, Origin, download, verify
from optimizees.data.layouts import LAYOUTS, cache_directory, locate

FILES = LAYOUTS["fashion-mnist"].files


class Handler(SimpleHTTPRequestHandler):
    requests: ClassVar[list[str]]
    hang_up: ClassVar[list[str]]

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.requests.append(self.path)
        if self.path not in self.hang_up:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve tmp_path/served on 127.0.0.1; `requests` lists what was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Recorder(Handler):
        requests: ClassVar[list[str]] = []
        hang_up: ClassVar[list[str]] = []

    handler = partial(Recorder, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        running.folder = folder
        running.url = f"http://127.0.0.1:{running.server_port}/"
        running.requests = Recorder.requests
        running.hang_up = Recorder.hang_up
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fashion(server, monkeypatch, write_fashion):
    """Serve a small FashionMNIST and know its checksums; return its files."""
    write_fashion(server.folder, num_train=3, num_test=2)
    raw = {file: (server.folder / file).read_bytes() for file in FILES}
    origin = Origin(
        base_url=server.url,
        files={file: sha256(content) for file, content in raw.items()},
        contents={file: sha256(gzip.decompress(raw[file])) for file in FILES},
    )
    monkeypatch.setitem(ORIGINS, "fashion-mnist", origin)
    return raw


@pytest.fixture
def official_cifar(server, monkeypatch, write_cifar, tmp_path):
    """Serve a small CIFAR-10 archive and know its checksums; return its files."""
    folder = write_cifar(tmp_path / "packed", rows_per_file=2)
    raw = {path.name: path.read_bytes() for path in folder.iterdir()}
    archive = server.folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in {**raw, "../readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    files = {archive.name: sha256(archive.read_bytes())}
    monkeypatch.setitem(ORIGINS, "cifar-10", Origin(server.url, files, contents={}))
    for name, content in raw.items():
        checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(cifar.MD5, name, checksum)
    return raw


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_files_arrive_in_the_cache_where_they_are_found(
    fashion, server, no_system_data
):
    assert locate("fashion-mnist") is None
    directory = download("fashion-mnist")
    assert directory == cache_directory("fashion-mnist")
    assert contents(directory) == fashion
    assert locate("fashion-mnist") == directory
    assert server.requests == [f"/{file}" for file in FILES]


def test_what_is_there_already_is_not_fetched_again(fashion, server, tmp_path):
    dest = download("fashion-mnist", tmp_path / "dest")
    recompressed = gzip.compress(gzip.decompress(fashion[FILES[0]]), 1, mtime=7)
    (dest / FILES[0]).write_bytes(recompressed)
    (dest / FILES[2]).write_bytes(b"damaged")
    (dest / FILES[3]).unlink()
    server.requests.clear()
    download("fashion-mnist", dest)
    assert server.requests == [f"/{FILES[2]}", f"/{FILES[3]}"]
    assert contents(dest) == {**fashion, FILES[0]: recompressed}


def test_progress_tells_bytes_and_their_total(fashion, tmp_path):
    calls = []
    download("fashion-mnist", tmp_path / "dest", progress=lambda *c: calls.append(c))
    assert calls == [(file, len(fashion[file]), len(fashion[file])) for file in FILES]


def test_a_mirror_replaces_the_address_but_not_the_checksums(
    fashion, server, tmp_path, monkeypatch
):
    origin = ORIGINS["fashion-mnist"]
    unreachable = Origin("http://127.0.0.1:9", origin.files, origin.contents)
    monkeypatch.setitem(ORIGINS, "fashion-mnist", unreachable)
    dest = download("fashion-mnist", tmp_path / "dest", base_url=server.url)
    assert contents(dest) == fashion
    (server.folder / FILES[0]).write_bytes(b"changed")
    with pytest.raises(ValueError, match="Nothing was replaced"):
        download("fashion-mnist", tmp_path / "other", base_url=server.url)


@pytest.mark.parametrize(
    ("served", "advice"),
    [
        (b"changed", "with SHA-256 .* pass base_url of another mirror"),
        (b"<html>Busy</html>", "This is an HTML page, not data: Nothing was replaced"),
    ],
    ids=["changed", "html"],
)
def test_a_wrong_checksum_leaves_what_was_there(
    fashion, server, tmp_path, served, advice
):
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / FILES[1]).write_bytes(b"older file")
    (server.folder / FILES[1]).write_bytes(served)
    with pytest.raises(ValueError, match=advice):
        download("fashion-mnist", dest)
    assert contents(dest) == {FILES[0]: fashion[FILES[0]], FILES[1]: b"older file"}


def test_an_interrupt_leaves_what_was_there_and_the_next_run_continues(
    fashion, server, tmp_path
):
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / FILES[1]).write_bytes(b"older file")

    def interrupt(file, received, total):
        if file == FILES[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("fashion-mnist", dest, progress=interrupt)
    assert contents(dest) == {FILES[0]: fashion[FILES[0]], FILES[1]: b"older file"}
    server.requests.clear()
    download("fashion-mnist", dest)
    assert server.requests == [f"/{file}" for file in FILES[1:]]
    assert contents(dest) == fashion


def test_a_server_that_hangs_up_is_a_network_failure(fashion, server, tmp_path):
    server.hang_up.append(f"/{FILES[0]}")
    with pytest.raises(ConnectionError, match="Run the same command again"):
        download("fashion-mnist", tmp_path / "dest")
    assert contents(tmp_path / "dest") == {}


@pytest.mark.parametrize("address", ["{server}absent", "http://127.0.0.1:9"])
def test_a_network_failure_says_what_else_to_try(fashion, server, tmp_path, address):
    base_url = address.format(server=server.url)  # nothing listens on port 9
    with pytest.raises(ConnectionError, match="or copy the files by hand and set"):
        download("fashion-mnist", tmp_path / "dest", base_url=base_url)
    assert contents(tmp_path / "dest") == {}


def test_verify_tells_each_file(fashion, tmp_path):
    dest = download("fashion-mnist", tmp_path / "fashion-mnist")
    again = gzip.compress(gzip.decompress(fashion[FILES[0]]), 1, mtime=7)
    (dest / FILES[0]).write_bytes(again)
    unpacked = FILES[1].removesuffix(".gz")
    (dest / unpacked).write_bytes(gzip.decompress(fashion[FILES[1]]))
    (dest / FILES[1]).unlink()
    (dest / FILES[2]).write_bytes(fashion[FILES[2]][:-5])
    assert verify("fashion-mnist", tmp_path) == [
        f"{FILES[0]}: ok, the official content, compressed anew",
        f"{unpacked}: ok, the official content, compressed anew",
        f"{FILES[2]}: differs from the official file",
        f"{FILES[3]}: ok, the official file",
    ]
    (dest / FILES[3]).unlink()
    assert verify("fashion-mnist", dest)[3] == f"{FILES[3]}: missing"


def test_cifar_is_unpacked_once_and_verified(official_cifar, server, tmp_path):
    target = download("cifar-10", tmp_path / "dest")
    assert target == tmp_path / "dest" / "cifar-10-batches-bin"
    assert contents(target) == official_cifar
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert verify("cifar-10", tmp_path / "dest") == [
        f"{file}: ok, the official file" for file in LAYOUTS["cifar-10"].files
    ]
    server.requests.clear()
    download("cifar-10", tmp_path / "dest")
    assert server.requests == []
    (target / "data_batch_2.bin").write_bytes(b"damaged")
    differs = "data_batch_2.bin: differs from the official file, e.g. JPEG copies"
    assert verify("cifar-10", target)[1] == differs
    (target / "test_batch.bin").unlink()
    assert verify("cifar-10", target)[5] == "test_batch.bin: missing"
    download("cifar-10", tmp_path / "dest")
    assert contents(target) == official_cifar


def test_a_wrong_archive_is_not_unpacked(official_cifar, server, tmp_path):
    (server.folder / "cifar-10-binary.tar.gz").write_bytes(b"<html>Busy</html>")
    with pytest.raises(ValueError, match="This is an HTML page, not data"):
        download("cifar-10", tmp_path / "dest")
    assert contents(tmp_path / "dest") == {}


def test_the_system_copy_of_fashion_has_the_official_content():
    directory = locate("fashion-mnist")
    if directory is None:
        pytest.skip("the full FashionMNIST is not on this machine")
    assert all(": ok, " in line for line in verify("fashion-mnist", directory))


def test_every_file_that_a_loader_needs_has_a_checksum():
    assert tuple(ORIGINS["fashion-mnist"].files) == FILES
    assert tuple(ORIGINS["fashion-mnist"].contents) == FILES
    assert tuple(cifar.MD5) == LAYOUTS["cifar-10"].files
    assert tuple(ORIGINS["mnist-test"].files) == LAYOUTS["mnist-test"].files
    assert tuple(ORIGINS["mnist-test"].contents) == LAYOUTS["mnist-test"].files
    assert ORIGINS.keys() == LAYOUTS.keys()
