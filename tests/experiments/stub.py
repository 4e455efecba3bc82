"""A recipe that does next to nothing, for tests of how plans are run."""

import os
import sys
import time
from pathlib import Path


def main(argv):
    output, *orders = argv
    output = Path(output)
    for order in orders:
        name, _, value = order.partition("=")
        if name == "fail" and not Path(value).exists():
            raise ValueError("this job fails")
        if name == "exit":
            sys.exit(int(value))
        if name == "kill":
            os.kill(os.getpid(), int(value))
        if name == "beat":  # for ever, with a child that does the same
            os.fork()
            while True:
                with open(value, "a") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(0.02)
        if name == "sleep":
            time.sleep(float(value))
        if name == "print":
            print(os.environ.get(value))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.touch()
