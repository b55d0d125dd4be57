"""Runs torch's own `test_optim.py` on NeuralGraphOpt; a script of its own process.

`python -m contract.torch_suite fetch` puts that file where the test finds it: it comes
from Debian's source package of torch, since no wheel holds it. `... run FILE` prints
one JSON object, test name to "ok" or to why it was skipped or failed.
"""

import hashlib
import io
import json
import re
import sys
import tarfile
import types
import unittest
import urllib.request
from pathlib import Path

from contract.infos import build_info, import_machinery

CACHE = Path.home() / ".cache" / "l2o" / "torch_test_optim.py"
_ARCHIVE = (
    "http://deb.debian.org/debian/pool/main/p/pytorch/pytorch_2.6.0+dfsg.orig.tar.xz"
)
_SHA256 = "099a9601bc40d67656e75735c44abedb0fbe92d08817852ab7472eebb7e6ddff"


def fetch():
    """Download 27 MB, check them, and keep the one file."""
    with urllib.request.urlopen(_ARCHIVE) as response:
        content = response.read()
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256:
        raise ValueError(f"{_ARCHIVE} must have sha256 {_SHA256}; got {found}.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        name = next(n for n in archive.getnames() if n.endswith("/test/test_optim.py"))
        text = archive.extractfile(name).read()
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    CACHE.write_bytes(text)
    return CACHE


def run(path):
    """Return the outcome of each test of the file, for NeuralGraphOpt alone."""
    machinery = import_machinery()
    machinery.optim_db[:] = [build_info()]
    # Suites of schedulers and of differentiable optimizers, which lie beside it.
    text = re.sub(r"(?m)^from optim\..*$", "", Path(path).read_text())
    module = types.ModuleType("torch_test_optim")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(text, str(path), "exec"), vars(module))
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = _Outcomes()
    suite.run(result)
    return result.found


class _Outcomes(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.found = {}

    def _note(self, test, outcome):
        self.found[test.id().split(".")[-1].split("_NeuralGraphOpt")[0]] = outcome

    def addSuccess(self, test):
        self._note(test, "ok")

    def addSkip(self, test, reason):
        self._note(test, f"skipped: {reason}")

    def addFailure(self, test, error):
        self._note(test, f"failed: {error[1]}")

    addError = addFailure


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        sys.stdout.write(f"{fetch()}\n")
    else:
        sys.stdout.write(json.dumps(run(sys.argv[2])))
