"""Benchmarks are scripts that lie beside each other: their folder is on the path when one of them runs."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"

if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))
