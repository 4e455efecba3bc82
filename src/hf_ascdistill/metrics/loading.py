"""Loads the packaged `evaluate` module of the scene metrics."""

from pathlib import Path

MODULE_FOLDER = Path(__file__).parent / "scene_accuracy"


def load_scene_metrics(**kwargs):
    """Loads the `evaluate` module that collects logits batch by batch and returns [`scene_metrics`]; needs no network.

    Args:
        kwargs: options of `evaluate.load`. For several processes: `num_process` (`int`), `process_id` (`int`) and
            `experiment_id` (`str`), the last one the same in all processes of one evaluation.

    Returns:
        `evaluate.Metric`: its `compute` returns the metrics in process 0 and `None` in the others.

    Example:

    ```python
    >>> metric = load_scene_metrics()
    >>> metric.add_batch(predictions=[[2.0, 0.5], [0.1, 0.3]], references=[0, 0], device_ids=[0, 1])
    >>> metric.compute(scenes=["bus", "tram"], devices=["a", "s4"], groups={"unseen": ("s4",)})["accuracy"]
    0.5
    ```
    """
    import evaluate  # evaluate imports datasets: not before it is needed

    return evaluate.load(str(MODULE_FOLDER), **kwargs)


__all__ = ["MODULE_FOLDER", "load_scene_metrics"]
