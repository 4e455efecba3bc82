"""Classifies a wav file with an exported model: onnxruntime, numpy and soundfile are all that it needs.

python docs/onnx_example.py exported/student/waveform-int8.onnx clip.wav
"""

import json
import sys

import numpy as np
import onnxruntime
import soundfile


def read_clips(path: str, rate: int, min_samples: int) -> np.ndarray:
    """Returns the seconds of a file as rows, float32 (N, rate); a shorter file is one row."""
    samples, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
    waveform = samples.mean(axis=1)  # of the channels
    if own_rate != rate:
        try:
            import soxr
        except ImportError:
            sys.exit(f"{path} has {own_rate} Hz, the model takes {rate} Hz: resample it, or `pip install soxr`.")
        waveform = soxr.resample(waveform, own_rate, rate)
    if len(waveform) < min_samples:
        sys.exit(f"{path} has {len(waveform)} samples at {rate} Hz; the model takes {min_samples} or more.")
    seconds = len(waveform) // rate
    return waveform[: seconds * rate].reshape(seconds, rate) if seconds else waveform[None]


def main(model_path: str, wav_path: str) -> None:
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    labels, rate, min_samples = (json.loads(metadata[key]) for key in ("labels", "sampling_rate", "min_samples"))
    clips = read_clips(wav_path, rate, min_samples)
    batches = np.array_split(clips, -(-len(clips) // 16))  # a long recording as a whole would fill the memory
    probabilities = np.concatenate([session.run(None, {"waveform": batch})[0] for batch in batches])
    scores = probabilities.mean(axis=0)  # of the seconds
    for index in np.argsort(-scores):
        print(f"{labels[index]:20} {scores[index]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
