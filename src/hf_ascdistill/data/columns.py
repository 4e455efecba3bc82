"""Names of the columns that travel through the project, each spelled once, and the one sampling rate."""

SAMPLING_RATE = 32_000  # Hz; of every waveform after reading, and the unit of `start` and `length`

# What a row yields.
EXAMPLE_ID = "example_id"  # str, unique within a dataset
WAVEFORM = "waveform"  # float32 (T,), mono
INPUT_VALUES = "input_values"  # float32 (M, F), log-mel
LABELS = "labels"  # ClassLabel(scenes)
DEVICE_IDS = "device_ids"  # ClassLabel(devices)
CITY = "city"  # str
TEACHER_LOGITS = "teacher_logits"  # float32 (C,), raw

# Where a row's audio lies; replaced by `waveform` when the row is read.
RECORDING = "recording"  # str, name of the recording that the clip is cut from
START = "start"  # int64, first sample of the clip in its recording
LENGTH = "length"  # int64, samples
PATH = "path"  # str, absolute path of the clip's wav; only before `prepare`
CONTENT = "content"  # str, hash of the audio file; only after `prepare`
EARLIEST = "earliest"  # int64, first and last sample at which a random crop may begin
LATEST = "latest"

__all__ = [
    "CITY",
    "CONTENT",
    "DEVICE_IDS",
    "EARLIEST",
    "EXAMPLE_ID",
    "INPUT_VALUES",
    "LABELS",
    "LATEST",
    "LENGTH",
    "PATH",
    "RECORDING",
    "SAMPLING_RATE",
    "START",
    "TEACHER_LOGITS",
    "WAVEFORM",
]
