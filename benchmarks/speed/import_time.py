"""Time to import the package and to the first estimate, in fresh processes.

    python benchmarks/speed/import_time.py

Cold means without any compiled kernel in Numba's cache. The wall clock counts other processes as well, the
processor's time does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import ROOT, parser_of, print_table

CLOCKS = """
import time
start = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""
IMPORT = CLOCKS.format("import isac_toolbox")
FIRST = CLOCKS.format("""
import isac_toolbox as isac
observation = isac.Scenario.load("urban_uplink").simulate(seed=0).observation
isac.EMTurboBiSVBI().estimate(observation)
""")


def seconds(code: str, cache: Path) -> np.ndarray:
    """Wall clock and processor time that a fresh process prints, with its kernels cached in a folder."""
    paths = {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | paths, capture_output=True, text=True, check=True
    )
    return np.array(done.stdout.split(), dtype=float)


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cold = seconds(FIRST, cache)
        warm = np.median([seconds(FIRST, cache) for _ in range(repeats)], axis=0)
        imported = np.median([seconds(IMPORT, cache) for _ in range(repeats)], axis=0)
    measured = (
        ("import isac_toolbox", imported, "0.5"),
        ("first estimate, warm cache", warm, "2"),
        ("first estimate, cold cache", cold, "40"),
    )
    rows = [[name, f"{wall:.2f}", f"{processor:.2f}", aim] for name, (wall, processor), aim in measured]
    print_table("fresh process", ["", "wall s", "processor s", "aim"], rows)


if __name__ == "__main__":
    main()
