"""Meta-train in child processes that are killed at random moments, and resume.

Run as a script: the modules are imported once, every attempt is a fork of it.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from meta_train.config import load_config
from meta_train.loop import MetaTrainer


def attempt(config, folder, delay):
    """Start or resume a run; kill it after `delay` seconds. Return if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            is_begun = (folder / "checkpoint.pt").exists()
            MetaTrainer(load_config(config), folder, resume=is_begun).train()
            code = 0
        finally:
            os._exit(code)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        sys.exit(f"a run in {folder} ended with {os.WEXITSTATUS(status)}")
    return False


def main(config, home, kills):
    """Run once in peace, then until as many kills have hit; write both numbers."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    attempt(config, home / "whole", None)
    longest = time.perf_counter() - started
    draw = random.Random(0)
    hits = 0
    runs = 0
    while hits < kills:
        folder = home / f"killed-{runs}"
        while hits < kills and attempt(config, folder, draw.uniform(0, longest / 2)):
            hits += 1
        attempt(config, folder, None)
        runs += 1
    sys.stdout.write(f"{hits} {runs}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
