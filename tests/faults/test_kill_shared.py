"""kill -9 on PostgreSQL and S3: every command is killed at every place that it reaches there."""

import itertools
import shutil
from collections.abc import Callable

import pytest

from tests.faults.conftest import KILLED

COMMANDS = {
    "pin": ("backbone", "pin", "other", "model", "--max-length", "16"),
    "register": ("task", "register", "town.yaml", "--team", "nlu", "--idempotency-key", "town-1"),
    "promote": ("task", "promote", "city/2", "--alias", "champion", "--expect", "none"),
    "import": ("version", "import", "city", "module.safetensors", "--manifest", "module.yaml"),
    "assemble": ("release", "assemble", "--task", "city/2"),
    "collect": ("gc", "--grace", "0"),
}
LEAST = {"pin": 9, "register": 5, "promote": 5, "import": 12, "assemble": 14, "collect": 3}
"""How many places each reaches at the least, so that a test which reaches none does not pass."""


def last(places: list[str], place: str) -> int:
    return max((number for number, reached in enumerate(places) if reached == place), default=-1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, prepared, open_registry, postgresql, s3) -> Callable[[], object]:
    """Copies of the prepared registry, restored onto a database and a bucket of their own, with an orphan blob."""
    bucket, numbers = s3.new_bucket(), itertools.count()
    template = postgresql.create()

    def environment(database: str, prefix: str) -> dict[str, str]:
        return s3.environment | {
            "TRUNKLINE_DATABASE_URL": postgresql.url(database),
            "TRUNKLINE_ARTIFACT_ROOT": f"s3://{bucket}/{prefix}",
        }

    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(prepared, folder / "source")
    first = open_registry(folder / "source", minute=10)
    first.done("backup", "backup.tar")
    first.environ = environment(template, "template")
    first.done("db", "upgrade")
    first.done("restore", "backup.tar")
    first.done("train", "city", "--layers", "1", "--epochs", "3", "--lr", "0.003", "--precision", "fp32")
    keys = [found["Key"] for found in s3.client.list_objects_v2(Bucket=bucket)["Contents"]]
    keys.append(f"template/sha256/ab/{'c' * 62}")
    s3.client.put_object(Bucket=bucket, Key=keys[-1], Body=b"an orphan")

    def copy():
        number = next(numbers)
        for key in keys:
            to = f"copy-{number}/{key.removeprefix('template/')}"
            s3.client.copy_object(Bucket=bucket, Key=to, CopySource={"Bucket": bucket, "Key": key})
        shutil.copytree(prepared, folder / str(number), ignore=shutil.ignore_patterns("registry.db*", "artifacts"))
        registry = open_registry(folder / str(number), minute=20)
        registry.environ = environment(postgresql.create(template=template), f"copy-{number}")
        return registry

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_anywhere_on_shared_storage_leaves_all_or_nothing(name, shared) -> None:
    unbroken = shared()
    before = unbroken.state
    reached = unbroken.done(*COMMANDS[name]).places
    after = unbroken.state
    places = list(dict.fromkeys(reached))
    assert len(places) >= LEAST[name], places
    for place in places:
        registry = shared()
        assert registry.run(*COMMANDS[name], kill_at=(place, reached.count(place))).status == KILLED, place
        was_accepted = last(reached, place) >= last(reached, "write.committed")
        assert registry.state == (after if was_accepted else before), place
        assert registry.done("fsck", "--json").json["findings"] == [], place
        registry.done(*COMMANDS[name])
        assert registry.state == after, place
        assert registry.done("fsck", "--json").json["findings"] == [], place
