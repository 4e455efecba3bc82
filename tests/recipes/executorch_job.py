"""Runs .pte files in ExecuTorch's environment; for test_executorch.py.

python tests/recipes/executorch_job.py FOLDER INPUTS.npz OUTPUTS.npz
"""

import sys
from pathlib import Path

import numpy as np
from executorch.runtime import Runtime

from hf_ascdistill.export.programs import run_executorch


def main(folder: str, inputs: str, outputs: str) -> None:
    """Runs each file on the arrays `NAME/...`; reads the texts that it carries."""
    arrays, results = np.load(inputs), {}
    for path in sorted(Path(folder).glob("*.pte")):
        content = path.read_bytes()
        for name in arrays.files:
            if name.startswith(f"{path.stem}/"):
                results[name] = run_executorch(content, arrays[name])
        program = Runtime.get().load_program(content)
        for method in program.method_names - {"forward"}:
            results[f"{path.stem}/{method}"] = program.load_method(method).execute([])[0]
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
