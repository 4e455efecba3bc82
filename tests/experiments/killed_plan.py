"""Runs a plan of one endless job; the test kills it. `python killed_plan.py ROOT BEATS`"""

import sys
from pathlib import Path

from hf_ascdistill.experiments.execution import Machine, locked_root, run_plan
from hf_ascdistill.experiments.jobs import Job

if __name__ == "__main__":
    root, beats = sys.argv[1:]
    job = Job("a", "teacher", "stub.py", (f"{root}/a", f"beat={beats}"), done=(f"{root}/a",))
    with locked_root(root, print):
        here = str(Path(__file__).parent)
        run_plan([job], root, machine=Machine(here, jobs=1, threads=1), expected={}, report=print)
