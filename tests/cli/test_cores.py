import os

from cli.cores import own_cores
from cli.serve import _use_of_cores


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
