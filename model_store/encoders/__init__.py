"""Encoders that a manifest may name, told apart by `kind`: opening a bundle can build these and nothing else."""

from typing import Annotated

from pydantic import Field

from model_store.encoders.language_model import LanguageModelConfig
from model_store.encoders.sequence import SequenceConfig
from model_store.encoders.weighted_sum import WeightedSumConfig

EncoderConfig = Annotated[
    SequenceConfig | WeightedSumConfig | LanguageModelConfig,
    Field(discriminator="kind"),
]
