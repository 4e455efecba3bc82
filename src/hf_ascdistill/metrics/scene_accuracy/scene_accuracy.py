"""`evaluate` module of the scene metrics; loaded with `evaluate.load` on its folder, offline."""

import datasets
import evaluate

from hf_ascdistill.metrics.scoring import scene_metrics

_DESCRIPTION = """
Accuracy of acoustic scene classifiers over all clips, averaged over scenes, per scene, per recording device and
per group of devices (pooled clips), and the log loss.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float): raw logits, (N, C).
    references (list of int): scene of each clip.
    device_ids (list of int): recording device of each clip.
    scenes (list of str): names of the C scenes, given to compute().
    devices (list of str): names of the devices, given to compute().
    groups (dict of str to list of str): devices of each group, given to compute().

Returns:
    dict: accuracy, macro_accuracy, log_loss, accuracy_{group}, accuracy_{device}, accuracy_scene_{scene}.
"""

_CITATION = """
@inproceedings{Morocutti2023,
    author = {Morocutti, Tobias and Schmid, Florian and Koutini, Khaled and Widmer, Gerhard},
    title = {Creating a Good Teacher for Knowledge Distillation in Acoustic Scene Classification},
    booktitle = {Proceedings of the Detection and Classification of Acoustic Scenes and Events Workshop},
    year = {2023}
}
"""


class SceneAccuracy(evaluate.Metric):
    """Collects logits, labels and device ids, in one or several processes, and scores them with `scene_metrics`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                    "device_ids": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, device_ids, *, scenes, devices, groups):
        return scene_metrics(predictions, references, device_ids, scenes=scenes, devices=devices, groups=groups)


__all__ = ["SceneAccuracy"]
