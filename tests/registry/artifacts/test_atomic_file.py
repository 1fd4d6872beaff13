import subprocess
import sys

import pytest

from registry.artifacts.atomic_file import write_atomically
from registry.errors import StorageError

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from registry.artifacts.atomic_file import write_atomically
from registry.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1000)
except StorageError as error:
    sys.exit(str(error))
"""


def test_a_file_is_written_whole_into_a_folder_that_need_not_exist(tmp_path):
    path = tmp_path / "new" / "state.json"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]


def test_a_full_disk_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    done = subprocess.run([sys.executable, "-P", "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"cannot write {path}" in done.stderr
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "file" / "state.json", b"")
