"""Golden examples: a few real inputs and what the stand-alone module answered when it was registered.

They are stored with every version, so that a release can be compared with each module without its training data.
"""

from typing import Literal

from pydantic import Field, ValidationError

from registry.domain.plain_data import Plain, canonical_json
from registry.domain.task_specs import validation_problems
from registry.errors import InvalidInput


class GoldenExample(Plain):
    text: str
    text_pair: str | None = None
    outputs: tuple[tuple[float, ...], ...]
    """The head's raw outputs in fp32, before any softmax: one row, or one row a word (zeros where it has no token)."""


class GoldenExamples(Plain):
    format: Literal[1] = 1
    examples: tuple[GoldenExample, ...] = Field(min_length=1)

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))


def parse_golden_examples(data: bytes, subject: str) -> GoldenExamples:
    """Reads the blob; raises InvalidInput with every problem."""
    try:
        return GoldenExamples.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(subject, validation_problems(error)) from None
