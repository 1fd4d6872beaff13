import hashlib
import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pipelines.training.packed_rows import PackedRows, load_or_pack


def rows_of(lengths, width, dtype):
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, width, generator=generator).to(dtype) for length in lengths]


def pack(folder: Path, rows, *, order=None, fields=None, width=3) -> PackedRows:
    numbers = order or list(range(len(rows)))
    return load_or_pack(
        folder,
        fields or {"key": 1},
        lengths=[len(row) for row in rows],
        width=width,
        dtype=rows[0].dtype if rows else torch.float32,
        fill=lambda: [(numbers, [rows[number] for number in numbers])],
    )


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    data=st.data(),
)
def test_rows_come_back_bit_for_bit_whatever_the_order_they_were_computed_in(
    tmp_path_factory, lengths, width, dtype, data
):
    rows = rows_of(lengths, width, dtype)
    order = data.draw(st.permutations(range(len(rows))))
    packed = pack(tmp_path_factory.mktemp("packed"), rows, order=order, width=width)
    assert len(packed) == len(rows)
    for number, row in enumerate(rows):
        assert torch.equal(packed.row(number), row)


def test_what_is_on_disk_is_not_computed_again(tmp_path):
    rows = rows_of([2, 3], 3, torch.float32)
    pack(tmp_path, rows)

    def refuse():
        raise AssertionError("computed again")

    again = load_or_pack(tmp_path, {"key": 1}, lengths=[2, 3], width=3, dtype=torch.float32, fill=refuse)
    assert torch.equal(again.row(1), rows[1])


def test_another_key_is_another_file(tmp_path):
    first, second = rows_of([2], 3, torch.float32), rows_of([4], 3, torch.float32)
    pack(tmp_path, first, fields={"key": 1})
    assert torch.equal(pack(tmp_path, second, fields={"key": 2}).row(0), second[0])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_the_file_is_plain_safetensors_and_memory_mapped(tmp_path):
    rows = rows_of([2, 3], 3, torch.bfloat16)
    packed = pack(tmp_path, rows)
    (path,) = tmp_path.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("values"), torch.cat(rows))
        assert file.get_tensor("offsets").tolist() == [0, 2, 5]
    mapped = Path("/proc/self/maps").read_text()
    assert str(path) in mapped, "the values were read into memory instead of being mapped"
    assert packed.values.numel() == 15


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose the sidecar"])
def test_a_damaged_file_is_computed_again_and_said_so(tmp_path, caplog, damage):
    rows = rows_of([2, 3], 3, torch.float32)
    pack(tmp_path, rows)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-4])
    else:
        path.with_suffix(".json").unlink()
    with caplog.at_level(logging.WARNING):
        again = pack(tmp_path, rows)
    assert torch.equal(again.row(1), rows[1])
    assert "damaged" in caplog.text
    assert path.name in caplog.text


def test_a_computation_that_fails_leaves_nothing(tmp_path):
    def fail():
        yield [0], [torch.zeros(2, 3)]
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        load_or_pack(tmp_path, {"key": 1}, lengths=[2, 3], width=3, dtype=torch.float32, fill=fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from pipelines.training.packed_rows import load_or_pack
from registry.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    load_or_pack(Path(sys.argv[1]), {"key": 1}, lengths=[5000], width=3, dtype=torch.float32,
                 fill=lambda: [([0], [torch.zeros(5000, 3)])])
except StorageError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot write the cache" in done.stderr
    assert "free some space" in done.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


WORKERS, KEYS = 4, 10


def test_the_same_rows_wanted_by_several_at_once_are_computed_once(tmp_path):
    together = threading.Barrier(WORKERS, timeout=60)
    computed: list[int] = []

    def work(number: int) -> None:
        for key in range(KEYS):

            def fill(key: int = key):
                computed.append(key)
                yield [0], [torch.full((50, 3), float(key)) + number * 1e-6]  # the bits differ, as of another machine

            together.wait()
            packed = load_or_pack(tmp_path, {"key": key}, lengths=[50], width=3, dtype=torch.float32, fill=fill)
            assert packed.row(0)[0, 0].item() == pytest.approx(key, abs=1e-4)

    with ThreadPoolExecutor(WORKERS) as workers:
        list(workers.map(work, range(WORKERS)))
    assert sorted(computed) == list(range(KEYS))
    for path in tmp_path.glob("*.safetensors"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert json.loads(path.with_suffix(".json").read_bytes())["sha256"] == digest
