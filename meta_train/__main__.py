"""`python -m meta_train CONFIG.yaml`: meta-train a rule."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
