import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "registry_writes.py"


@pytest.mark.slow
def test_the_benchmark_of_writes_runs_on_both_databases_and_reports_rates_and_latencies() -> None:
    command = [sys.executable, "-P", BENCHMARK, "--json", "--seconds", "0.3", "--writers", "1", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    assert [(result["database"], result["writers"]) for result in results] == [
        (database, writers) for database in ("sqlite", "postgresql") for writers in (1, 3, 1, 3)
    ]
    for result in results:
        assert 0 < result["p50"] <= result["p95"] <= result["p99"] <= result["slowest"]
        assert result["per_second"] > 0
        assert result["syncs"] > 0
