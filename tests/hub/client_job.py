"""Runs one call after the other, as lines of JSON name them, and answers in such lines; waiting takes no time.

python client_job.py < calls
"""

import importlib
import json
import os
import sys
import time
import traceback


def answer(request: dict) -> object:
    module, _, name = request["function"].partition(":")
    try:
        return getattr(importlib.import_module(module), name)(*request["arguments"], **request["keywords"])
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()  # as a recipe's user sees it
        return {"error": type(error).__name__, "text": str(error)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is output as well
    time.sleep = lambda seconds: print(f"waited {seconds:g} s", file=sys.stderr)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line)), default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
