"""What the networks cost, against the published figures; and the verdict on a budget."""

import dataclasses

import pytest
import torch
from torch import nn

from hf_ascdistill import (
    CpMobileConfig,
    CpMobileForAudioClassification,
    CpResNetConfig,
    CpResNetForAudioClassification,
    PasstConfig,
    PasstForAudioClassification,
)
from hf_ascdistill.complexity import (
    DCASE_2023_BUDGET,
    Budget,
    ModelComplexity,
    budget_table,
    check_budget,
    complexity_rows,
    count_depthwise_macs,
    count_macs,
    count_parameters,
    int8_bytes,
    measure_complexity,
)

CP_MOBILE_CLIP, CP_RESNET_CLIP, PASST_CLIP = (1, 256, 64), (1, 256, 43), (1, 128, 100)  # the log-mel of one second
PUBLISHED = [  # size, parameters, million MACs
    *(
        (CpMobileConfig, CpMobileForAudioClassification, CP_MOBILE_CLIP, *row)
        for row in [
            ("128k", 126_952, 28.89),
            ("450k", 481_200, 110.67),
            ("1m", 1_109_512, 251.28),
            ("4m", 3_957_850, 904.14),
            ("8m", 8_093_254, 1851.64),
        ]
    ),
    *(
        (CpResNetConfig, CpResNetForAudioClassification, CP_RESNET_CLIP, *row)
        for row in [
            ("128k", 127_684, 28.84),
            ("450k", 427_180, 91.33),
            ("1m", 1_098_892, 229.27),
            ("4m", 4_140_092, 847.22),
            ("8m", 7_973_884, 1622.48),
        ]
    ),
    (PasstConfig, PasstForAudioClassification, PASST_CLIP, "s", 85_358_612, 9587.08),
]


@pytest.mark.parametrize(("config_class", "model_class", "clip", "size", "parameters", "million_macs"), PUBLISHED)
def test_sizes_cost_what_is_published(config_class, model_class, clip, size, parameters, million_macs):
    with torch.device("meta"):  # shapes are enough
        model = model_class(config_class.from_preset(size))
    complexity = measure_complexity(model, clip)
    assert complexity.parameters == parameters
    assert round(complexity.macs / 1e6, 2) == million_macs


def test_the_student_costs_exactly_what_is_published():
    model = CpMobileForAudioClassification(CpMobileConfig())
    complexity = measure_complexity(model, CP_MOBILE_CLIP)
    assert complexity == ModelComplexity(
        parameters=126_952,
        fused_parameters=124_862,
        macs=28_889_088,
        int8_bytes=124_862,
        depthwise_macs=1_935_360,
        peak_activation_bytes=229_376,
    )
    assert count_macs(model, CP_MOBILE_CLIP, include_norms=True) == 28_893_268
    assert int8_bytes(model) == count_parameters(model, fused=True)


def test_norms_are_folded_only_into_a_convolution_before_them():
    model = nn.Sequential(
        nn.Conv1d(2, 3, 1, bias=False),  # 6, then 6 for the norm, which become a bias of 3
        nn.BatchNorm1d(3),
        nn.Conv1d(3, 4, 1),  # 16, then 8 for the norm, which go into the bias that is there
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.BatchNorm1d(4),  # 8 that stay
    )
    assert count_parameters(model) == 44
    assert count_parameters(model, fused=True) == 33


def test_depthwise_convolutions_are_those_with_a_group_for_each_channel():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4),  # 4 x 5 x 7 outputs of 3 x 3 products
        nn.Conv2d(4, 8, (1, 3), padding=(0, 1), groups=4),  # 8 x 5 x 7 outputs of 1 x 3 products
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 1, 1),
        nn.Conv2d(1, 1, 1),  # one channel is no group for itself
    )
    assert count_depthwise_macs(model, (1, 4, 5, 7)) == 140 * 9 + 280 * 3
    assert not any(module._forward_hooks for module in model.modules())


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12


def test_macs_are_the_products_of_each_layer():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2),  # 6 x 5 x 7 outputs of 2 x 3 x 3 products
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(210, 11),
    )
    assert count_macs(model, (1, 4, 5, 7)) == 210 * 18 + 210 * 11
    assert count_macs(model, (1, 4, 5, 7), include_norms=True) == 210 * 18 + 210 * 11 + 12


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_both_products_of_attention_count(implementation, device):
    config = PasstConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    model = PasstForAudioClassification(config).to(device)
    model.set_attn_implementation(implementation)
    tokens, patches = 110, 108
    linear = tokens * (8 * 24 + 8 * 8 + 2 * 8 * 12)
    assert count_macs(model, PASST_CLIP) == patches * 256 * 8 + linear + 2 * tokens * tokens * 8 + 8 * 10


def test_counting_in_full_leaves_the_configuration_alone():
    config = PasstConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    model = PasstForAudioClassification(config)
    count_macs(nn.Sequential(model), PASST_CLIP)
    assert model.config.output_hidden_states is False
    with pytest.raises(ValueError, match="at least 16 frames"):
        count_macs(model, (1, 128, 8))
    assert model.config.output_hidden_states is False
    assert model(torch.zeros(PASST_CLIP)).hidden_states is None


def test_counting_leaves_the_model_and_the_random_numbers_alone():
    model = CpMobileForAudioClassification(CpMobileConfig(base_channels=8)).train()
    model.classifier.eval()
    modes = [module.training for module in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    measure_complexity(model, (1, 64, 32))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failed_count_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).train()
    with pytest.raises(RuntimeError, match="channels"):
        count_macs(model, (1, 2, 5, 5))
    assert model.training and model[0].training and not model[0]._forward_hooks


@pytest.mark.parametrize("shape", [(256, 64), (2, 256, 64), ()])
def test_anything_but_one_input_raises(shape):
    for count in (count_macs, count_depthwise_macs, measure_complexity):
        with pytest.raises(ValueError, match="expected a batch of one"):
            count(nn.Linear(64, 1), shape)


def test_half_precision_and_linear_networks_are_measured():
    assert count_macs(nn.Linear(64, 3).to(torch.bfloat16), (1, 64)) == 192


STUDENT = ModelComplexity(parameters=126_952, fused_parameters=124_862, macs=28_889_088, int8_bytes=124_862)


def test_the_student_fits_the_dcase_limit():
    verdict = check_budget(STUDENT)
    assert verdict.fits and not verdict.exceeded
    assert verdict.text == "fits DCASE 2023: 124,862 of 128,000 bytes as int8, 28,889,088 of 30,000,000 MACs"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"int8_bytes": 128_001}, "exceeds DCASE 2023: 128,001 of 128,000 bytes as int8"),
        ({"macs": 30_000_001}, "exceeds DCASE 2023: 30,000,001 of 30,000,000 MACs"),
        (
            {"int8_bytes": 128_001, "macs": 30_000_001},
            "exceeds DCASE 2023: 128,001 of 128,000 bytes as int8, 30,000,001 of 30,000,000 MACs",
        ),
    ],
)
def test_a_verdict_names_the_limits_that_are_broken(change, text):
    verdict = check_budget(dataclasses.replace(STUDENT, **change))
    assert not verdict.fits
    assert len(verdict.exceeded) == len(change)
    assert verdict.text == text


def test_a_limit_itself_is_allowed_and_budgets_can_be_replaced():
    at_limit = dataclasses.replace(STUDENT, int8_bytes=DCASE_2023_BUDGET.max_bytes, macs=DCASE_2023_BUDGET.max_macs)
    assert check_budget(at_limit).fits
    assert not check_budget(at_limit, Budget("watch", max_bytes=64_000, max_macs=10**9)).fits


# 1,935,360 depthwise MACs, 9 for each output: 96 channels on 64 x 16, 32 x 8 and 32 x 8 places, 96 and 216 on 16 x 8,
# 216 on 16 x 8. At 0.5 and 0.2 a cycle: (26,953,728 / 0.5 + 1,935,360 / 0.2) / 480 MHz = 132 ms.
MEASURED = dataclasses.replace(STUDENT, depthwise_macs=1_935_360, peak_activation_bytes=229_376)
COST = [
    ("parameters", "126,952"),
    ("parameters, batch normalisation folded", "124,862"),
    ("size as int8 (bytes)", "124,862"),
    ("multiply-accumulates for one second", "28,889,088"),
]


def test_rows_say_what_the_student_costs_and_what_is_assumed():
    *cost, memory, (latency, estimate), (verdict, text) = complexity_rows(MEASURED)
    assert cost == COST
    assert memory == ("peak memory of feature maps as int8 (bytes)", "229,376")
    assert latency == "estimated latency" and verdict == "verdict" and text == check_budget(MEASURED).text
    assert estimate.startswith("about 130 ms (Cortex-M7, 480 MHz") and estimate.endswith("an order of magnitude)")


def test_rows_leave_out_what_is_not_known_or_not_wanted():
    assert complexity_rows(STUDENT, None) == COST
    results = {**dataclasses.asdict(MEASURED), "verdict": "fits"}
    assert ModelComplexity.from_results(results) == MEASURED
    older = {name: value for name, value in results.items() if value not in (1_935_360, 229_376)}
    assert ModelComplexity.from_results(older) == STUDENT


def test_the_table_is_made_of_the_rows():
    budget = Budget("watch", max_bytes=64_000, max_macs=10**9)
    lines = budget_table(MEASURED, budget).splitlines()
    assert lines[:3] == ["| cost | this network |", "|---|---|", "| parameters | 126,952 |"]
    assert lines[-1] == "| verdict | exceeds watch: 124,862 of 64,000 bytes as int8 |"
    assert len(lines) == 2 + len(complexity_rows(MEASURED, budget))
