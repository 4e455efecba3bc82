"""Counts the evaluation clips of a corpus that a published model names rightly, where the package is absent.

python score_clips_job.py NAME CORPUS
"""

import csv
import importlib.util
import json
import sys
from pathlib import Path

ABSENT = ("hf_ascdistill", "torchaudio", "datasets", "evaluate", "accelerate")


def main(name: str, corpus: Path) -> None:
    sys.modules.update(dict.fromkeys(ABSENT))  # Python takes None for a package that is not there
    import soundfile
    import soxr
    from huggingface_hub import hf_hub_download
    from transformers import pipeline

    spec = importlib.util.spec_from_file_location("handler", hf_hub_download(name, "handler.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler, pipe = module.EndpointHandler(name), pipeline("audio-classification", name, trust_remote_code=True)
    with open(corpus / "evaluation_setup" / "fold1_evaluate.csv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    right = {"clips": len(rows), "pipeline": 0, "handler": 0}
    for row in rows:
        path = corpus / row["filename"]
        samples, rate = soundfile.read(path, dtype="float32")
        raw = soxr.resample(samples, rate, 32_000, quality="HQ")
        answers = {
            "pipeline": pipe({"raw": raw, "sampling_rate": 32_000}),
            "handler": handler({"inputs": path.read_bytes()}),
        }
        for way, answer in answers.items():
            right[way] += answer[0]["label"] == row["scene_label"]
    print(json.dumps(right))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
