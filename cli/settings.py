"""Where things are and who acts. Flag beats environment beats file beats default; built once, in the entry point."""

import difflib
import getpass
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sqlalchemy.engine import URL

from registry.errors import UsageError

HOME_FOLDER = ".trunkline"
_REGISTRY_FILE = "registry.db"
_BLOB_CACHE_GIGABYTES = 20.0
_ACTIVATION_CACHE_GIGABYTES = 50.0
"""A search over 7 depths of 100,000 texts of 40 pieces at width 768 in bf16 takes 43."""
_PREFIX = "TRUNKLINE_"
_OURS = (
    "TRUNKLINE_HOME",
    "TRUNKLINE_ACTOR",
    "TRUNKLINE_DATABASE_URL",
    "TRUNKLINE_ARTIFACT_ROOT",
    "TRUNKLINE_BLOB_CACHE_GB",
    "TRUNKLINE_ACTIVATION_CACHE_GB",
)
_OF_THE_COMPOSE_FILE = ("TRUNKLINE_DB_PASSWORD", "TRUNKLINE_S3_SECRET")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run of the command needs to know about its surroundings. All paths are absolute."""

    home: Path
    database_url: str = field(repr=False)
    """May hold a password: never shown."""
    artifact_root: str
    """A folder's absolute path, or s3://bucket/prefix."""
    blob_cache: Path
    """Local copies of the blobs of a remote artifact root."""
    blob_cache_bytes: int
    activation_cache_bytes: int
    """How large what training computes once may grow together."""
    mlflow_uri: str
    mlflow_artifact_location: str | None
    """Where a new experiment keeps its files; None leaves it to the tracking server that the user named."""
    actor: str
    """Who the audit trail names for every change."""

    @property
    def registry_file(self) -> Path:
        return self.home / _REGISTRY_FILE

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], cwd: Path, *, home: Path | None = None, actor: str | None = None
    ) -> Self:
        """`home` and `actor` are the command's flags, None where they were not given.

        Raises:
            UsageError: the actor is empty or not on one line, the home is under a user that does not exist, the
                artifact root is neither a folder nor a URL, or a cache's limit is no number.
        """
        folder = _home(environ, cwd, home)
        tracking_uri = environ.get("MLFLOW_TRACKING_URI")
        return cls(
            home=folder,
            database_url=environ.get("TRUNKLINE_DATABASE_URL") or _sqlite_url(folder / _REGISTRY_FILE),
            artifact_root=_artifact_root(environ.get("TRUNKLINE_ARTIFACT_ROOT"), cwd, folder),
            blob_cache=folder / "cache" / "blobs",
            blob_cache_bytes=_bytes(environ, "TRUNKLINE_BLOB_CACHE_GB", _BLOB_CACHE_GIGABYTES),
            activation_cache_bytes=_bytes(environ, "TRUNKLINE_ACTIVATION_CACHE_GB", _ACTIVATION_CACHE_GIGABYTES),
            mlflow_uri=tracking_uri or _sqlite_url(folder / "mlflow.db"),
            mlflow_artifact_location=None if tracking_uri else (folder / "mlflow-artifacts").as_uri(),
            actor=_checked_actor(environ.get("TRUNKLINE_ACTOR") or _login_name() if actor is None else actor),
        )


def doubts(environ: Mapping[str, str]) -> list[str]:
    """What in the environment looks like a mistake, though the command can run: a sentence each, without values."""
    unknown = sorted(name for name in environ if name.startswith(_PREFIX))
    unknown = [name for name in unknown if name not in (*_OURS, *_OF_THE_COMPOSE_FILE)]
    found = [f"unknown and ignored in the environment: {', '.join(map(_with_near_one, unknown))}"] if unknown else []
    if (environ.get("TRUNKLINE_ARTIFACT_ROOT") or "").startswith("s3://") and not environ.get("TRUNKLINE_DATABASE_URL"):
        found.append(
            "TRUNKLINE_ARTIFACT_ROOT is a bucket, but the database is a file on this machine: "
            "others who use the bucket need TRUNKLINE_DATABASE_URL too, of one database"
        )
    return found


def _with_near_one(name: str) -> str:
    ends = [ours.removeprefix(_PREFIX) for ours in _OURS]  # the prefix alone would make all of them alike
    near = difflib.get_close_matches(name.removeprefix(_PREFIX), ends, n=1)
    return f"{name} (did you mean {_PREFIX}{near[0]}?)" if near else name


def _home(environ: Mapping[str, str], cwd: Path, flag: Path | None) -> Path:
    if flag is not None:
        return cwd / expanded(flag)
    if named := environ.get("TRUNKLINE_HOME"):
        return cwd / expanded(Path(named))
    candidates = (folder / HOME_FOLDER for folder in (cwd, *cwd.parents))
    return next((folder for folder in candidates if folder.is_dir()), cwd / HOME_FOLDER)


def _artifact_root(named: str | None, cwd: Path, home: Path) -> str:
    return located_root(named, cwd, "TRUNKLINE_ARTIFACT_ROOT") if named else str(home / "artifacts")


def located_root(named: str, cwd: Path, said_by: str) -> str:
    """An artifact root as the user wrote it: a folder's absolute path, or a URL as it is.

    Args:
        said_by: the variable or argument, for the error.
    Raises:
        UsageError: it is neither.
    """
    if named.startswith("s3:") and not named.startswith("s3://"):  # else a folder of this name would be made
        raise UsageError(f"{said_by} begins with s3: but not with s3://, as in s3://bucket/prefix")
    return named if "://" in named else str(cwd / expanded(Path(named)))


def _bytes(environ: Mapping[str, str], variable: str, default: float) -> int:
    named = environ.get(variable)
    try:
        gigabytes = float(named) if named else default
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise UsageError(f"{variable}={named}: must be a number of gigabytes above 0")
    return int(gigabytes * 1e9)


def expanded(path: Path) -> Path:
    """With `~` replaced; raises UsageError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: there is no such user; name another folder") from None


def _sqlite_url(path: Path) -> str:
    # Rendered by SQLAlchemy, so that a '?', '#' or '%' in a folder's name does not change the URL's meaning.
    return URL.create("sqlite", database=str(path)).render_as_string()


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no user has
        return f"uid-{os.getuid()}"


def _checked_actor(actor: str) -> str:
    if not actor.strip() or not actor.isprintable():
        raise UsageError(f"actor {actor!r}: must be a name on one line; set it with --actor or TRUNKLINE_ACTOR")
    return actor
