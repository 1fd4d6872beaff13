"""What every value of the domain has in common: frozen, nothing extra, and one canonical JSON form."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Plain(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: keys sorted by code point, no spaces, UTF-8, shortest float form, no NaN.

    Raises:
        ValueError: the value holds a NaN or an infinity.
    """
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def json_digest(value: Any) -> str:
    """The sha256, in hexadecimal, of a value's canonical JSON; raises ValueError as `canonical_json` does."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
