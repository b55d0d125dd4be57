"""A hub on this machine: as much of its protocol as one upload and download take."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub(ThreadingHTTPServer):
    """Keeps the files of each repository in memory."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {}
        self.refuses_with = None
        self.fault = None
        self.asked = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Stay silent."""

    def answer(self, body, status=200, *, is_cut=False, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
        self.close_connection = self.close_connection or is_cut

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if self.server.refuses_with is not None:
            self.answer({"error": "no"}, self.server.refuses_with)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.server.repositories.setdefault(name, {"private": wanted})
            self.answer({"url": f"{self.server.address}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self.answer({"files": [{**_PLAIN, "path": file["path"]} for file in files]})
        else:
            self.commit("/".join(path.split("/")[3:5]), body)

    def commit(self, name, body):
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repositories[name][line["value"]["path"]] = content
        address = f"{self.server.address}/{name}/commit/{COMMIT}"
        self.answer({"commitUrl": address, "commitOid": COMMIT})

    def do_GET(self):
        if self.server.fault == "dropped connection":
            self.close_connection = True
            self.connection.close()
            return
        if self.server.fault == "redirect loop":
            self.answer({}, 302, Location=f"{self.server.address}{self.path}")
            return
        if isinstance(self.server.fault, int):
            self.answer({"error": "no\x1b[31m"}, self.server.fault)
            return
        owner, name, _, revision, file = [*self.path.split("/")[1:], *[""] * 5][:5]
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None:
            self.answer({}, 404, X_Error_Code="RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.answer({}, 404, X_Error_Code="RevisionNotFound")
        elif file not in repository:
            self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            content = repository[file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            is_cut = self.server.fault == "truncated body" and self.command == "GET"
            self.answer(content, is_cut=is_cut, X_Repo_Commit=COMMIT, ETag=etag)

    do_HEAD = do_GET


_PLAIN = {"uploadMode": "regular", "shouldIgnore": False}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running hub; the library talks to it and to no other."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="needs the extra l2o[hub]"
    )
    server = LocalHub()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = template.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "a-token")
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
