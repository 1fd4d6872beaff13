"""What a running server says no with; what was wrong with a request itself is in `registry.errors`.

TrunklineError
├── Overloaded        no place in the queue: come back later
├── DeadlinePassed    the request was not answered in the time it gave
├── Stopping          the server is draining and takes nothing new
└── EngineFailed      the model broke while it computed this answer
"""

from registry.errors import TrunklineError


class Overloaded(TrunklineError):
    """`retry_after`: seconds after which a place is likely."""

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class DeadlinePassed(TrunklineError):
    pass


class Stopping(TrunklineError):
    pass


class EngineFailed(TrunklineError):
    pass
