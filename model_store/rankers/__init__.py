"""Rankers that a manifest may name, told apart by `kind`: opening a bundle can build these and nothing else."""

from typing import Annotated

from pydantic import Field

from model_store.rankers.pointwise import PointwiseConfig
from model_store.rankers.verbalizer import VerbalizerConfig

RankerConfig = Annotated[VerbalizerConfig | PointwiseConfig, Field(discriminator="kind")]
