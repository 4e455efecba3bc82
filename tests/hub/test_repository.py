"""What a repository is made of, beside what test_publish.py sees on the Hub."""

import torch
from safetensors.torch import load_file
from serving_parts import small_model

from hf_ascdistill import SCENES, AscFeatureExtractor, stage_repository

COMPLEXITY = {"parameters": 10, "fused_parameters": 9, "int8_bytes": 9, "macs": 100, "verdict": "fits"}
RESULTS = {
    "run": "tiny",
    "complexity": COMPLEXITY,
    "scenes": list(SCENES),
    "devices": ["a", "s1"],
    "groups": {},
    "last_epochs": {"clips": 80, "correct": 60, "accuracy": 0.75, "macro_accuracy": 0.74, "log_loss": 0.9},
}


def test_denormal_weights_are_not_published(tmp_path):
    model = small_model("cp-mobile")
    name, weight = next(iter(model.named_parameters()))
    weight.data.view(-1)[0] = 1e-40
    model.save_pretrained(tmp_path / "run")
    AscFeatureExtractor.from_preset("cp-mobile").save_pretrained(tmp_path / "run")
    stage_repository(tmp_path / "run", tmp_path / "staged", repo_id="user/x", results=RESULTS)
    weight.data.view(-1)[0] = 0
    assert torch.equal(load_file(tmp_path / "staged" / "model.safetensors")[name], weight)
