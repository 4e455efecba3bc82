"""The models: configurations, networks and their feature extractor, and their entry into the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_asc import TAU22_SCENES
from .configuration_cp_mobile import CpMobileConfig
from .configuration_cp_resnet import CpResNetConfig
from .configuration_passt import PasstConfig
from .feature_extraction_asc import AscFeatureExtractor
from .modeling_cp_mobile import CpMobileForAudioClassification, CpMobileModel
from .modeling_cp_resnet import CpResNetForAudioClassification, CpResNetModel
from .modeling_passt import PasstForAudioClassification, PasstModel

MODELS = (
    (CpMobileConfig, CpMobileModel, CpMobileForAudioClassification),
    (CpResNetConfig, CpResNetModel, CpResNetForAudioClassification),
    (PasstConfig, PasstModel, PasstForAudioClassification),
)


def register() -> None:
    """Enters the models into the Auto classes, and has `save_pretrained` put their code next to the weights.

    May be called again; `import hf_ascdistill` calls it.
    """
    for config_class, model_class, classifier_class in MODELS:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        AutoModelForAudioClassification.register(config_class, classifier_class, exist_ok=True)
        AutoFeatureExtractor.register(config_class, AscFeatureExtractor, exist_ok=True)
        config_class.register_for_auto_class()
        model_class.register_for_auto_class("AutoModel")
        classifier_class.register_for_auto_class("AutoModelForAudioClassification")
    AscFeatureExtractor.register_for_auto_class()


__all__ = [
    "TAU22_SCENES",
    "AscFeatureExtractor",
    "CpMobileConfig",
    "CpMobileForAudioClassification",
    "CpMobileModel",
    "CpResNetConfig",
    "CpResNetForAudioClassification",
    "CpResNetModel",
    "PasstConfig",
    "PasstForAudioClassification",
    "PasstModel",
    "register",
]
