"""`python -m benchmarks.step_cost CELL`: the process that measures one cell."""

import sys

from .cell import main

print(main(sys.argv[1]))
