"""Loads converted models as a user does who has transformers alone, and writes what they give for one clip; then the
logits sets, which take the package.

python load_folders_job.py FOLDER CLIP.npy OUTPUT.npz
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification


def main(folder: Path, clip: Path, output: Path) -> None:
    logits = {}
    sets = [path.parent for path in folder.glob("*/meta.json")]
    for path in sorted(set(folder.iterdir()).difference(sets)):
        extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=True)
        model = AutoModelForAudioClassification.from_pretrained(path, trust_remote_code=True)
        inputs = extractor(np.load(clip), sampling_rate=32_000, return_tensors="pt")
        with torch.no_grad():
            logits[path.name] = model(**inputs).logits.numpy()
    assert "hf_ascdistill" not in sys.modules
    from hf_ascdistill import load_logits

    logits |= {path.name: load_logits(path).logits for path in sets}
    np.savez(output, **logits)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
