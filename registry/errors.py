"""Every error that Trunkline raises on purpose.

    TrunklineError
    ├── UsageError             the arguments of a command cannot be used together (exit code 2)
    ├── InvalidInput           a file or a value was read and refused; lists all its problems
    ├── NotFound               a reference names nothing
    ├── NothingFits            no selection of modules keeps to the limits
    ├── NotAllowed             the object's state forbids it (exit code 4)
    ├── Conflict               somebody else was first (exit code 5)
    │   ├── AlreadyExists      the name is taken
    │   └── LostRace           a compare-and-swap found another value than expected
    ├── GateFailed             a release did not pass a gate (exit code 3)
    ├── TrainingFailed         the numbers ran away; nothing was registered
    ├── ArtifactError          a blob cannot be used
    │   ├── ArtifactMissing    the store does not hold it
    │   ├── ArtifactDamaged    its bytes do not have its digest
    │   └── InvalidWeights     it is not safetensors, or not the tensors that belong there
    ├── StorageError           the disk or the database could not be written or read
    └── SchemaError            the database's schema is not the one this program knows

A message says what failed, on which object, and what to do next.
"""

from collections.abc import Sequence
from typing import ClassVar


class TrunklineError(Exception):
    """The root. `exit_code` is what the command line ends with when the error reaches it."""

    exit_code: ClassVar[int] = 1


class UsageError(TrunklineError):
    exit_code = 2


class InvalidInput(TrunklineError):
    """`subject` names what was refused; `problems` lists every reason, each with its place; the message shows 20."""

    def __init__(self, subject: str, problems: Sequence[str]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            message = f"{subject}: {self.problems[0]}"
        else:
            lines = [*self.problems[:20]]
            if len(self.problems) > len(lines):
                lines.append(f"and {len(self.problems) - len(lines):,} more")
            message = f"{subject}: {len(self.problems):,} problems" + "".join(f"\n  - {line}" for line in lines)
        super().__init__(message)


class NotFound(TrunklineError):
    pass


class NothingFits(TrunklineError):
    pass


class NotAllowed(TrunklineError):
    exit_code = 4


class Conflict(TrunklineError):
    exit_code = 5


class AlreadyExists(Conflict):
    pass


class LostRace(Conflict):
    pass


class GateFailed(TrunklineError):
    exit_code = 3


class TrainingFailed(TrunklineError):
    pass


class ArtifactError(TrunklineError):
    pass


class ArtifactMissing(ArtifactError):
    pass


class ArtifactDamaged(ArtifactError):
    pass


class InvalidWeights(ArtifactError):
    pass


class StorageError(TrunklineError):
    pass


class SchemaError(TrunklineError):
    pass
