"""Time to import the package and to the first estimate, in fresh processes.

    python benchmarks/speed/import_time.py

Cold means without any compiled kernel in Numba's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import ROOT, parser_of, print_table

IMPORT = "import time; s = time.perf_counter(); import isac_toolbox; print(time.perf_counter() - s)"
FIRST = """
import time
start = time.perf_counter()
import isac_toolbox as isac
observation = isac.Scenario.load("urban_uplink").simulate(seed=0).observation
isac.EMTurboBiSVBI().estimate(observation)
print(time.perf_counter() - start)
"""


def seconds(code: str, cache: Path) -> float:
    """What a fresh process prints, with its kernels cached in a folder."""
    paths = {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | paths, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cold = seconds(FIRST, cache)
        warm = np.median([seconds(FIRST, cache) for _ in range(repeats)])
        imported = np.median([seconds(IMPORT, cache) for _ in range(repeats)])
    rows = [
        ["import isac_toolbox", f"{imported:.2f}", "0.5"],
        ["first estimate, warm cache", f"{warm:.2f}", "2"],
        ["first estimate, cold cache", f"{cold:.1f}", "40"],
    ]
    print_table("fresh process, wall clock", ["", "s", "aim"], rows)


if __name__ == "__main__":
    main()
