"""An export that is there whole and asked, or not at all."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from modeling.parity import ParityResult
from pipelines.export.export_parity import file_parity, folder_parity
from pipelines.export.single_file import write_single_file
from pipelines.export.transformers_folder import write_transformers_folder
from registry.artifacts.atomic_file import make_folder, sync_path
from registry.artifacts.store import ArtifactStore
from registry.domain.manifests import Manifest
from registry.errors import StorageError, UsageError
from registry.fault_points import reached
from registry.progress import Report

ExportForm = Literal["safetensors-single", "hf"]


def export_release(
    manifest: Manifest, path: Path, form: ExportForm, *, card: str, store: ArtifactStore, report: Report
) -> dict[str, ParityResult]:
    """Writes it beside its place, asks it there in a fresh process, and moves it when its answers are the release's.

    Args:
        path: nothing may be there.
        card: of a folder for transformers, what README.md says above how to use it.
    Returns:
        Task -> what was found of its golden answers.
    Raises:
        UsageError: something is there already.
        GateFailed: it does not answer as the release does, or cannot be loaded.
        InvalidWeights, ArtifactMissing, ArtifactDamaged: a blob cannot be used.
        StorageError: it cannot be written.
    """
    _refuse_if_there(path)
    try:
        make_folder(path.parent)
        with _own_folder(path) as folder:
            written = folder / path.name
            report("writing", 0, 2)
            if form == "hf":
                write_transformers_folder(manifest, written, card=card, store=store)
            else:
                write_single_file(manifest, written, store=store)
            reached("export.written")
            report("asking it in a fresh process", 1, 2)
            found = folder_parity(manifest, written, store=store) if form == "hf" else file_parity(manifest, written)
            reached("export.asked")
            _put_in_place(written, path)
        sync_path(path.parent)
        report("asking it in a fresh process", 2, 2)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space or name another place") from error
    return found


def _refuse_if_there(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already: name a new one, or remove it")


@contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    """A folder beside the path to write in, held by a lock; what killed exports left there is removed."""
    prefix = f".exporting-{path.name}-"
    for left in [one for one in path.parent.iterdir() if one.name.startswith(prefix)]:
        with suppress(OSError), _locked(left):  # somebody else is writing there, or it has just gone
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder, _locked(Path(folder)):
        yield Path(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _put_in_place(written: Path, path: Path) -> None:
    """Durable, readable as any file, and only where nothing came in between."""
    files = [written] if written.is_file() else list(written.iterdir())
    for file in files:
        file.chmod(0o644)
        sync_path(file)
    try:
        if written.is_file():
            os.link(written, path)
        else:
            sync_path(written)
            written.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            _refuse_if_there(path)
        raise
