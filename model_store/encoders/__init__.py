"""Encoders that a manifest may name, told apart by `kind`: opening a bundle can build these and nothing else."""

from typing import Annotated

from pydantic import Field

from model_store.encoders.appended import AppendedConfig
from model_store.encoders.fused import FusedConfig
from model_store.encoders.language_model import LanguageModelConfig
from model_store.encoders.sequence import SequenceConfig
from model_store.encoders.weighted_sum import WeightedSumConfig

EncoderConfig = Annotated[
    SequenceConfig | WeightedSumConfig | LanguageModelConfig | FusedConfig | AppendedConfig,
    Field(discriminator="kind"),
]
# These hold encoders themselves: their fields could not be read before the union was known.
FusedConfig.model_rebuild()
AppendedConfig.model_rebuild()
