"""The bodies of the plain routes: what is read is validated by these, what is written only described by them."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from modeling.decoding import Answer
from registry.domain.plain_data import Plain
from serving.http.bodies import json_at_a_glance, refuse_too_many, refuse_too_many_of
from serving.http.refusals import refusal_of_body
from serving.questions import Text

ONE_TEXT = {"text": "Shares in Boeing fell on Monday."}
MANY_TEXTS = {
    "texts": ["Shares in Boeing fell on Monday.", {"text": "It rained.", "text_pair": "The streets were wet."}],
    "timeout": 2.5,
}


MOST_NAME = 200
"""Characters of a name that a request may ask for: longer ones are nobody's, and would stand in the refusal."""

_SHORT: Any = Field(min_length=1, fail_fast=True)
"""Of a list with a thousand wrong items, the first is enough."""
_NAMES: Any = Field(min_length=1, max_length=1000, fail_fast=True)


class AskedText(Plain):
    """A text, or a pair of texts."""

    model_config = ConfigDict(strict=True)

    text: str
    text_pair: str | None = None


class PredictRequest(Plain):
    """One text, by `text` and `text_pair`, or many, by `texts`."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}, "texts": {"type": "null"}}},
                {"required": ["texts"], "properties": {"texts": {"type": "array"}, "text": {"type": "null"}}},
            ]
        },
    )

    text: str | None = None
    text_pair: str | None = Field(None, description="The second text, for tasks that read pairs.")
    texts: Annotated[list[str | AskedText], _SHORT] | None = None
    tasks: Annotated[list[Annotated[str, Field(max_length=MOST_NAME)]], _NAMES] | None = Field(
        None, description="Only these; left out, every task that reads the form of each text."
    )
    timeout: float | None = Field(
        None, gt=0, description="Seconds after which the answer is of no use; the server's own limit holds too."
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        if self.texts is not None and self.text_pair is not None:
            raise ValueError('text_pair goes with text; in texts, write {"text": …, "text_pair": …}')
        return self

    @property
    def asked(self) -> list[Text]:
        if self.texts is None:
            return [Text(self.text or "", self.text_pair)]
        return [Text(one) if isinstance(one, str) else Text(one.text, one.text_pair) for one in self.texts]


class ReleaseName(Plain):
    name: str
    digest: str = Field(description="sha256 of the release's manifest.")


class OnePrediction(Plain):
    """The answers to `text`, by task."""

    release: ReleaseName
    versions: dict[str, int] = Field(description="Which version of each task answered.")
    truncated: bool = Field(description="Whether the text's end was not read, for it has too many tokens.")
    answers: dict[str, Answer]


class PredictionOfMany(Plain):
    truncated: bool
    answers: dict[str, Answer]


class ManyPredictions(Plain):
    """The answers to `texts`, in their order."""

    release: ReleaseName
    versions: dict[str, int]
    predictions: list[PredictionOfMany]


class AnswerEvent(Plain):
    """The data of an event `answer`: what one task says about one text."""

    index: int = Field(description="The text's place in the request, from 0.")
    task: str
    version: int
    release: ReleaseName
    truncated: bool
    answer: Answer


class EndEvent(Plain):
    """The data of the event `end`: every answer has been sent."""

    release: ReleaseName


class ErrorEvent(Plain):
    """The data of the event `error`: the answers that are missing will not come."""

    status: int
    error: str


class Problem(Plain):
    error: str


class ServedTask(Plain):
    version: int
    type: str
    input_form: str
    labels: list[str]


class FailedSwap(Plain):
    """A release that is live on the channel and could not be taken over."""

    release: str
    digest: str
    error: str
    attempts: int
    since: str


class Following(Plain):
    channel: str
    failure: FailedSwap | None
    registry_error: str | None = Field(description="Why it is not known what is live on the channel; null if it is.")


class ReleaseDescription(Plain):
    """What new requests are answered by."""

    release: ReleaseName
    precision: str
    max_length: int = Field(description="Tokens of a text that are read.")
    tasks: dict[str, ServedTask]
    following: Following | None


_REQUEST = TypeAdapter(PredictRequest)


def parse_predict_request(body: bytes, *, most_texts: int) -> PredictRequest:
    """Raises Refused: 400 for what is no JSON, 413 for too many texts, 422 for JSON that is no request."""
    if isinstance(found := json_at_a_glance(body), dict):
        refuse_too_many_of(found.get("texts"), most_texts)
    try:
        request = _REQUEST.validate_json(body)
    except ValidationError as error:
        raise refusal_of_body(error) from None
    refuse_too_many(len(request.texts or ()), most_texts)
    return request
