"""Lets the scripts of this folder import the benchmarks above it, and the package `serving` rather than this folder.

`benchmarks/` on the path makes this very folder importable as `serving`; the repository itself on the path, where the
package is a regular one, goes before that. Imported for its effect, before anything of `benchmarks/`.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

for _folder in (REPOSITORY, REPOSITORY / "benchmarks"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
