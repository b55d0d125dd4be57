import json
import re
import subprocess

import torch

from meta_train.provenance import provenance


def test_it_names_commit_versions_and_machine():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert re.match(r"[0-9a-f]{12}(-dirty)?$|unknown", found["commit"])
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["versions"]) == {"l2o", "torch", "numpy", "python"}
    assert set(found["machine"]) == {"system", "processor", "threads", "gpu"}


def test_a_tree_without_git_is_said_to_be_one(monkeypatch):
    def fail(*_args, **_kwargs):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance()["commit"] == "unknown (no git checkout)"


def test_a_machine_without_git_too(monkeypatch):
    def fail(*_args, **_kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance()["commit"] == "unknown (no git checkout)"
