"""`python -m meta_train CONFIG.yaml`: `l2o meta-train`, for `torchrun -m`."""

import sys

from l2o.cli import main

if __name__ == "__main__":
    sys.exit(main(["meta-train", *sys.argv[1:]]))
