"""Accuracy and log loss of scene classifiers, per scene, device and group, and their means over epochs and runs."""

from .loading import load_scene_metrics
from .scoring import scene_metrics
from .summary import mean_over_last_epochs, summarize_runs

__all__ = ["load_scene_metrics", "mean_over_last_epochs", "scene_metrics", "summarize_runs"]
