"""A lock: the exact selection a release is built from."""

from collections.abc import Mapping

from pydantic import Field, ValidationError

from registry.domain.plain_data import Plain
from registry.domain.references import Name, VersionReference
from registry.domain.task_specs import validation_problems
from registry.errors import InvalidInput


class Lock(Plain):
    """One backbone and one version of every task, by number."""

    backbone: Name
    tasks: Mapping[Name, int] = Field(min_length=1)

    @property
    def versions(self) -> tuple[VersionReference, ...]:
        return tuple(VersionReference(task=task, number=number) for task, number in sorted(self.tasks.items()))


def parse_lock(content: object, subject: str) -> Lock:
    """Validates what a lock file held; raises InvalidInput with every problem."""
    try:
        return Lock.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(subject, validation_problems(error)) from None
