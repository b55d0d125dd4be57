"""`python -m benchmarks.companion_demo [PICTURE]`: seconds, no data needed."""

import sys
from pathlib import Path

from .demo import run_demo

_PATH = Path(*(sys.argv[1:2] or ["companion-demo.png"]))
print(run_demo(_PATH))
print("Picture:", _PATH.resolve())
