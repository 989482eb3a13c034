"""Times of whole estimates beside another commit, in turns in the same run, and what many blocks cost.

    git archive COMMIT | tar -x -C FOLDER
    python benchmarks/speed/ratios.py --baseline FOLDER [--commit COMMIT] > benchmarks/speed/ratios.txt

Both trees run in processes of their own with one thread, in turns; times are processor time, the best of
the repeats, which other processes disturb least. "dB" is the largest difference of the channel's error over
the seeds: rounding where the paths are the model's. "first estimate" has an empty cache of kernels and
counts everything from ``estimate`` on. "peak" is what Python allocates at the most during an estimate, over
the samples and pilots of the block. "many" compares ``estimate_many`` with estimates one by one in the same
process, and two processes with one by the clock, which needs two idle processors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tables import ROOT, Worker, parser_of, print_table, serve

NR_GRID: dict[str, Any] = {
    "n_users": 4,
    "subcarrier_spacing_hz": 30e3,
    "pilot_pattern": "comb",
    "n_pilot_symbols": 4,
    "n_data_symbols": 10,
}
#: Name of a case: scenario, what is changed, seeds.
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "urban_uplink": ("urban_uplink", {}, (0, 1, 2)),
    "rich_scattering": ("rich_scattering", {}, (0,)),
    "traced_munich": ("traced_munich", {}, (0,)),
    "traced_street_canyon": ("traced_street_canyon", {}, (0,)),
    "massive_uplink": ("massive_uplink", {}, (0,)),
    "64 x 3,276 x 14, 4 users": ("urban_uplink", NR_GRID | {"n_subcarriers": 3276}, (0,)),
    "umi_like 16 x 624 x 14, 4 users": (
        "umi_like",
        NR_GRID | {"n_subcarriers": 624, "array_shape": (4, 4)},
        (0,),
    ),
}
MEMORY_CASE = "64 x 3,276 x 14, 4 users"
MANY_BLOCKS = 16


def simulations(case: str) -> list[Any]:
    """The blocks of a case."""
    import isac_toolbox as isac

    name, changes, seeds = CASES[case]
    scenario = isac.Scenario.load(name).replace(snr_db=10.0, **changes)
    return [scenario.simulate(seed=seed) for seed in seeds]


def work(case: str) -> None:
    """Time of all blocks of a case, again and again, and the errors of their channels."""
    import isac_toolbox as isac

    blocks, estimator = simulations(case), isac.EMTurboBiSVBI()
    estimator.estimate(blocks[0].observation)

    def measure() -> dict[str, float]:
        start = process_time()
        results = [estimator.estimate(block.observation) for block in blocks]
        found = {"seconds": process_time() - start}
        for seed, (result, block) in enumerate(zip(results, blocks)):
            found[f"dB {seed}"] = float(isac.metrics.channel_nmse_db(result.channel, block.truth.channel))
        return found

    serve(measure)


def in_turns(case: str, trees: dict[str, Path], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Measurements of all trees."""
    workers = {name: Worker(Path(__file__), tree, "--case", case) for name, tree in trees.items()}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(repeats):
        for name, worker in workers.items():
            measured[name].append(worker.ask())
    for worker in workers.values():
        worker.close()
    return measured


def row(case: str, trees: dict[str, Path], repeats: int) -> list[str]:
    """Times per block, their ratio, and how far the errors of the channels differ."""
    measured = in_turns(case, trees, repeats)
    n_blocks = len(CASES[case][2])
    best = [min(m["seconds"] for m in measured[name]) / n_blocks for name in trees]
    first, last = (measured[name][0] for name in trees)
    differs = max(abs(first[key] - last[key]) for key in first if key.startswith("dB"))
    return [
        case,
        f"{1e3 * best[0]:.1f}",
        f"{1e3 * best[1]:.1f}",
        f"{best[0] / best[1]:.2f}",
        f"{differs:.0e}",
    ]


FRESH = """
import json
from time import process_time
import isac_toolbox as isac
observation = isac.Scenario.load("urban_uplink").simulate(seed=0).observation
isac.EMTurboBiSVBI
start = process_time()
isac.EMTurboBiSVBI().estimate(observation)
print(json.dumps(process_time() - start))
"""

PEAK = """
import json, sys, tracemalloc
sys.path.insert(0, sys.argv[1])
import isac_toolbox as isac
from ratios import simulations
observation = simulations(sys.argv[2])[0].observation
isac.EMTurboBiSVBI().estimate(isac.Scenario.load("urban_uplink").simulate(seed=0).observation)
tracemalloc.start()
isac.EMTurboBiSVBI().estimate(observation)
peak = tracemalloc.get_traced_memory()[1]
print(json.dumps(peak / (observation.received.nbytes + observation.pilots.nbytes)))
"""


def fresh(code: str, tree: Path, *arguments: str, cache: str | None = None) -> float:
    """What a process of its own prints last."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=tree,  # which comes before PYTHONPATH
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def first_estimate(trees: dict[str, Path], repeats: int) -> list[str]:
    """Seconds of a first estimate after installation."""
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    for _ in range(repeats):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as cache:
                seconds[name].append(fresh(FRESH, tree, cache=cache))
    before, now = (min(s) for s in seconds.values())
    return ["first estimate", f"{1e3 * before:.0f}", f"{1e3 * now:.0f}", f"{before / now:.2f}", ""]


def peak_memory(trees: dict[str, Path]) -> list[str]:
    """Peak of an estimate over the size of its block."""
    here = str(Path(__file__).parent)
    before, now = (fresh(PEAK, tree, here, MEMORY_CASE) for tree in trees.values())
    return [f"peak, {MEMORY_CASE}", f"{before:.1f} x", f"{now:.1f} x", f"{before / now:.2f}", ""]


def timed(clock: Callable[[], float], work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = clock()
    work()
    return clock() - start


def many_rows() -> list[list[str]]:
    """What estimate_many adds to estimates one by one, and what two processes gain."""
    import isac_toolbox as isac

    scenario, estimator = isac.Scenario.load("urban_uplink"), isac.EMTurboBiSVBI()
    blocks = [scenario.simulate(seed=seed).observation for seed in range(MANY_BLOCKS)]
    estimator.estimate_many(blocks[:4], n_jobs=2)  # starts the processes
    estimator.estimate(blocks[0])
    alone, many, one, two = [], [], [], []
    for _ in range(3):
        alone.append(timed(process_time, lambda: [estimator.estimate(obs) for obs in blocks]))
        many.append(timed(process_time, lambda: estimator.estimate_many(blocks)))
        one.append(timed(perf_counter, lambda: estimator.estimate_many(blocks)))
        two.append(timed(perf_counter, lambda: estimator.estimate_many(blocks, n_jobs=2)))
    added = np.median(np.array(many) / alone) - 1
    return [
        ["added by estimate_many to a block", f"{100 * added:.1f} %"],
        ["rate of two processes over one", f"{min(one) / min(two):.2f}"],
        ["load of the machine meanwhile", f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} processors"],
    ]


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--baseline", type=Path, help="folder with the tree of another commit")
    parser.add_argument("--commit", default="baseline", help="what to call it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--without-first", action="store_true", help="leave out the first estimate")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.case)
        return
    if arguments.baseline is None:
        parser.error("--baseline is needed")
    trees = {"baseline": arguments.baseline, "now": ROOT}
    rows = [row(case, trees, arguments.repeats) for case in arguments.cases]
    if not arguments.without_first:
        rows.append(first_estimate(trees, 1))
    rows.append(peak_memory(trees))
    heads = ["10 dB", f"{arguments.commit} ms", "now ms", "ratio", "dB"]
    print_table("processor time of an estimate, best of the repeats", heads, rows)
    print_table(f"{MANY_BLOCKS} blocks of urban_uplink", ["many", ""], many_rows())


if __name__ == "__main__":
    main()
