"""What is asked of a release: texts, and for each the tasks that are to answer it; and one such answer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from modeling.decoding import Answer
from registry.domain.manifests import Manifest
from registry.domain.task_specs import InputForm
from registry.errors import InvalidInput, NotFound, UsageError

_NAMED = 5
"""Names in a refusal; a request may ask for a thousand."""


@dataclass(frozen=True, slots=True)
class Text:
    """One input: a text, or a pair of texts."""

    text: str
    text_pair: str | None = None

    @property
    def form(self) -> InputForm:
        return InputForm.SINGLE if self.text_pair is None else InputForm.PAIR


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """One task's answer to one text of a request."""

    number: int
    """The text's place in its request, from 0."""
    task: str
    answer: Answer


def refuse_empty(texts: Sequence[Text]) -> None:
    """Raises InvalidInput, naming every text, or text of a pair, that is empty or white space."""
    empty = [
        f"text {number}: is empty"
        for number, text in enumerate(texts, 1)
        if not text.text.strip() or (text.text_pair is not None and not text.text_pair.strip())
    ]
    if empty:
        raise InvalidInput("input", empty)


def tasks_of(form: InputForm, manifest: Manifest, asked: Collection[str] | None) -> list[str]:
    """The tasks that answer inputs of this form, in the manifest's order: those asked for, or with None all.

    Raises:
        NotFound: a task is not in the release.
        UsageError: a task reads the other input form, or no task reads this one.
    """
    branches = manifest.tasks
    if asked is None:
        if reading := [task for task, branch in branches.items() if branch.input_form is form]:
            return reading
        raise UsageError(f"no task of this release reads a {_described(form)}; its tasks: {', '.join(branches)}")
    wanted = set(asked)
    if unknown := sorted(wanted - set(branches)):
        named = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")
        raise NotFound(f"not in this release: {named}; its tasks: {', '.join(sorted(branches))}")
    if other := sorted(task for task in wanted if branches[task].input_form is not form):
        raise UsageError(
            f"{', '.join(other)}: reads a {_described(branches[other[0]].input_form)}, and the input is a "
            f"{_described(form)}; ask for tasks of one input form at a time"
        )
    return [task for task in branches if task in wanted]


def _described(form: InputForm) -> str:
    return {InputForm.SINGLE: "single text", InputForm.PAIR: "pair of texts"}[form]
