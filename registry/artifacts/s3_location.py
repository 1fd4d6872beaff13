"""Where a store lies in S3: `s3://bucket/prefix`, taken apart and checked."""

import re
from typing import NamedTuple, Self

from registry.errors import UsageError

_SCHEME = "s3://"
_BUCKET = re.compile(r"(?!.*\.\.)(?!.*\.-)(?!.*-\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_QUERY = re.compile("[?#]")
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_PREFIX_PART = re.compile(r"[A-Za-z0-9!_.*'()=+,-]+")
_LONGEST_PREFIX = 512
"""Characters. A key may have 1,024 bytes; the rest is for the store's own part of it."""


class S3Location(NamedTuple):
    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises UsageError, with all problems of the URL, and without what could be a password in it."""
        if not url.startswith(_SCHEME):
            raise UsageError(f"artifact root: an S3 root begins with {_SCHEME}, as in s3://bucket/prefix")
        _, at, root = _QUERY.split(url.removeprefix(_SCHEME), maxsplit=1)[0].rpartition("@")
        bucket, _, path = root.partition("/")
        prefix = path.removesuffix("/")
        problems = []
        if at:
            problems.append(
                "holds credentials: leave them out, they are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or from AWS_PROFILE"
            )
        if _QUERY.search(url):
            problems.append("has something after a '?' or '#', and a root has neither")
        problems += _bucket_problems(bucket) + _prefix_problems(prefix)
        if problems:
            shown = "…" if ":" in bucket else f"{bucket}/{path}"
            raise UsageError(f"artifact root {_SCHEME}{shown}: {'; '.join(problems)}")
        return cls(bucket, prefix)

    @property
    def url(self) -> str:
        return _SCHEME + "/".join(part for part in self if part)

    def key(self, name: str) -> str:
        """The key of what lies below the root under this name."""
        return f"{self.prefix}/{name}" if self.prefix else name


def _bucket_problems(bucket: str) -> list[str]:
    if not bucket:
        return ["names no bucket: write s3://bucket/prefix"]
    if ":" in bucket or _ADDRESS.fullmatch(bucket):  # not shown: what follows a ':' may be a password
        return ["names a server where the bucket's name belongs: a server's address goes into AWS_ENDPOINT_URL"]
    if not _BUCKET.fullmatch(bucket):
        return [f"{bucket!r} is no bucket's name (3 to 63 of a-z, 0-9, '.' and '-')"]
    return []


def _prefix_problems(prefix: str) -> list[str]:
    problems = []
    if len(prefix) > _LONGEST_PREFIX:
        problems.append(f"its prefix is longer than {_LONGEST_PREFIX} characters")
    for part in prefix.split("/") if prefix else ():
        if part in ("", ".", ".."):
            problems.append(f"its prefix has the part {part!r}, which is no name")
        elif not _PREFIX_PART.fullmatch(part):
            problems.append(f"its prefix has the part {part!r}: use letters, digits and ! - _ . * ' ( ) = + , only")
    return problems
