"""A backbone's files from a model hub: one repository at one revision, kept in the hub client's own cache.

The client reads `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` as everywhere. It is imported when it is used.
"""

import re
from pathlib import Path

from registry.errors import NotFound, StorageError, UsageError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ("config.json", "tokenizer.json", "*.safetensors", "model.safetensors.index.json")


def is_repository(name: str) -> bool:
    """Whether a name has the form of a hub's repository, `owner/name`."""
    return _REPOSITORY.fullmatch(name) is not None


def download(repository: str, *, revision: str | None) -> tuple[Path, str]:
    """Fetches the files that pinning reads.

    Args:
        revision: a commit, tag or branch; it must be named, so that what is pinned is what was meant.

    Returns:
        The folder, and the source to record: the repository at the commit that the revision stands for.
    Raises:
        UsageError: no revision is named.
        NotFound: there is no such repository or revision, or it may not be read.
        StorageError: the hub cannot be reached, or the files cannot be written.
    """
    if revision is None:
        raise UsageError(
            f"{repository} is no folder here; to take it from the hub, say which revision: --revision COMMIT "
            "(its files and history page shows the commit)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(_FILES)))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise NotFound(
            f"hub repository {repository} at revision {revision} is not there, or needs a token (HF_TOKEN): "
            f"{_first_line(error)}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise StorageError(
            f"hub repository {repository} cannot be fetched: {_first_line(error)}; try again, or download its files "
            "and pin the folder"
        ) from error
    return folder, f"{repository}@{folder.name}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
