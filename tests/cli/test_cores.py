import os
from pathlib import Path

import pytest

from cli import cores
from cli.cores import own_cores
from cli.serve import _use_of_cores


@pytest.fixture(autouse=True)
def groups(tmp_path: Path, monkeypatch) -> Path:
    """Where this machine's control groups are looked for; none at first."""
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_cores_are_those_that_the_process_may_run_on(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert own_cores() == 3


def test_where_the_system_tells_no_process_its_cores_all_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert own_cores() == 8
    assert _use_of_cores(None, None, "cpu") == {"lanes": 2, "threads": 4}
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert own_cores() == 1


@pytest.mark.parametrize(
    ("limit", "expected"), [("200000 100000\n", 2), ("150000 100000\n", 2), ("5000 100000\n", 1), ("max 100000\n", 12)]
)
def test_a_container_has_the_cores_whose_time_it_is_given(groups, limit, expected):
    write(groups / "own", "0::/\n")
    write(groups / "groups" / "cpu.max", limit)
    assert own_cores() == expected


def test_a_group_above_may_have_less_than_the_process_s_own(groups):
    write(groups / "own", "0::/a.slice/b.service\n")
    write(groups / "groups" / "a.slice" / "b.service" / "cpu.max", "800000 100000\n")
    write(groups / "groups" / "a.slice" / "cpu.max", "300000 100000\n")
    assert own_cores() == 3


@pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("-1", 12)])
def test_control_groups_of_version_1_are_read_too(groups, quota, expected):
    write(groups / "own", "4:memory:/elsewhere\n3:cpu,cpuacct:/docker/ab\n0::/\n")
    write(groups / "groups" / "cpu" / "cpu.cfs_quota_us", f"{quota}\n")
    write(groups / "groups" / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert own_cores() == expected
