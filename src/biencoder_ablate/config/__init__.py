"""From a command line to a checked config. The schema's classes are handed on from here."""

from biencoder_ablate.config.schema import (
    Config,
    ConfigError,
    DataConfig,
    EvaluationConfig,
    FusionConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    NegativesConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "FusionConfig",
    "HeadConfig",
    "LossConfig",
    "ModelConfig",
    "NegativesConfig",
    "TrainingConfig",
]
