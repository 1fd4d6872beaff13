"""What the routes answer with: an engine, what one request may ask of it, and who is told."""

from dataclasses import dataclass
from functools import cached_property

from serving.channel_following import ChannelFollower
from serving.engine import Engine
from serving.http.answers import TokeniserRoom
from serving.http.lifecycle import Lifecycle
from serving.http.limits import Limits
from serving.metrics import ServerMetrics

MODEL_NAME = "trunkline"


@dataclass(frozen=True, kw_only=True)
class Service:
    engine: Engine
    metrics: ServerMetrics
    lifecycle: Lifecycle
    limits: Limits
    model_name: str = MODEL_NAME
    follower: ChannelFollower | None = None

    @cached_property
    def room(self) -> TokeniserRoom:
        """Of all requests together."""
        return TokeniserRoom(self.limits.untokenised_bytes)
