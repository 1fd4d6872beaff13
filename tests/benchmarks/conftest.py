"""Benchmarks are scripts that lie beside each other: their folder is on the path when one of them runs.

The repository goes before it: `benchmarks/serving/` is a folder of scripts, and `serving` the package.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

for folder in (REPOSITORY, REPOSITORY / "benchmarks", REPOSITORY / "benchmarks" / "serving"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
