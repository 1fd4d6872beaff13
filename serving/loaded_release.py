"""A release ready to answer: manifest and blobs verified, merged model in memory. No database is involved."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.backbone import load_text_encoder
from modeling.batching import row_outputs, token_batches
from modeling.decoding import Answer, decode
from modeling.multitask import MergedModel, load_merged_model
from modeling.text import EncodedText, TextEncoder
from registry.artifacts.store import ArtifactStore
from registry.domain.manifests import Manifest, parse_manifest
from registry.progress import Report
from serving.questions import Text, refuse_empty, tasks_of

_TEXTS_AT_ONCE = 256
"""Of many: enough of like length for full batches, and answered within some ten seconds."""


@dataclass(frozen=True)
class Prediction:
    """What a release says about one text."""

    answers: dict[str, Answer]
    """By task."""
    truncated: bool
    """Whether the text was longer than the backbone's `max_length`: its end was not read."""


@dataclass(frozen=True)
class LoadedRelease:
    """A release in memory, in fp32."""

    manifest: Manifest
    model: MergedModel
    encoder: TextEncoder

    def predict(self, texts: Sequence[Text], tasks: Collection[str] | None = None) -> list[Prediction]:
        """Answers every text for the tasks asked for, or for every task of its input form.

        Returns:
            One prediction a text, in order.
        Raises:
            NotFound: a task is not in the release.
            UsageError: a task reads the other input form, or no task reads a text's form.
            InvalidInput: a text is empty.
        """
        encoded = self._encode(texts)
        predictions = [Prediction({}, row.truncated) for row in encoded]
        for task, outputs in self._outputs(texts, encoded, tasks).items():
            branch, transitions = self.manifest.tasks[task], self.model.branch(task).transitions
            for row, values in outputs.items():
                predictions[row].answers[task] = decode(
                    values,
                    type=branch.type,
                    labels=branch.labels,
                    tag_scheme=branch.tag_scheme,
                    text=texts[row].text,
                    encoded=encoded[row],
                    transitions=transitions,
                )
        return predictions

    def predictions(
        self, texts: Sequence[Text], tasks: Collection[str] | None = None, report: Report | None = None
    ) -> Iterator[Prediction]:
        """What `predict` says of each text, in order; the answers that are kept do not grow with the texts.

        Args:
            report: told of each part that is computed, where there are several.
        Raises:
            As `predict`, at once: before the first text is answered.
        """
        refuse_empty(texts)
        for form in {text.form for text in texts}:
            tasks_of(form, self.manifest, tasks)
        return self._part_by_part(texts, tasks, report)

    def _part_by_part(
        self, texts: Sequence[Text], tasks: Collection[str] | None, report: Report | None
    ) -> Iterator[Prediction]:
        said = report if len(texts) > _TEXTS_AT_ONCE else None
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            if said is not None:
                said("answering", start, len(texts))
            yield from self.predict(texts[start : start + _TEXTS_AT_ONCE], tasks)
        if said is not None:
            said("answering", len(texts), len(texts))

    def outputs(self, texts: Sequence[Text], tasks: Collection[str] | None = None) -> dict[str, dict[int, Tensor]]:
        """Raw outputs, [O] or [words, O] fp32, by task and text number: for comparing releases bit by bit."""
        return self._outputs(texts, self._encode(texts), tasks)

    def _encode(self, texts: Sequence[Text]) -> list[EncodedText]:
        refuse_empty(texts)
        return self.encoder.encode([(text.text, text.text_pair) for text in texts])

    def _outputs(
        self, texts: Sequence[Text], encoded: Sequence[EncodedText], tasks: Collection[str] | None
    ) -> dict[str, dict[int, Tensor]]:
        by_form = {form: tasks_of(form, self.manifest, tasks) for form in {text.form for text in texts}}
        found: dict[str, dict[int, Tensor]] = {task: {} for of_form in by_form.values() for task in of_form}
        for form, of_form in by_form.items():
            rows = [row for row, text in enumerate(texts) if text.form is form]
            for places_in_rows in token_batches([len(encoded[row].input_ids) for row in rows]):
                batch_rows = [rows[place] for place in places_in_rows]
                batch = self.encoder.collate([encoded[row] for row in batch_rows])
                with torch.inference_mode():
                    outputs = self.model(batch, dict.fromkeys(of_form))
                for task in of_form:
                    answers = row_outputs(outputs[task], [encoded[row] for row in batch_rows])
                    found[task].update(zip(batch_rows, answers, strict=True))
        return found


def load_release(manifest_digest: str, store: ArtifactStore) -> LoadedRelease:
    """Reads a release from its blobs, verifying every digest and every tensor.

    Raises:
        ArtifactMissing, ArtifactDamaged, InvalidWeights: a blob cannot be used.
    """
    manifest = parse_manifest(store.read(manifest_digest), f"manifest {manifest_digest[:12]}")
    return LoadedRelease(
        manifest=manifest,
        model=load_merged_model(manifest, store),
        encoder=load_text_encoder(manifest.trunk, store),
    )
