"""Stage by stage times of whole estimates, side by side with another commit in the same run.

    git archive COMMIT | tar -x -C FOLDER
    python benchmarks/speed/stages.py --baseline FOLDER

Both trees run in processes of their own, with one thread, in turns; a stage's time is the median over the
runs of the time inside its functions (processor time, so other processes disturb it less).
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from tables import ROOT, Worker, gemm_rate, parser_of, print_table, serve

CASES = ("urban_uplink", "massive_uplink")
# Stage: methods and functions of which it is the time. Stages contain one another.
STAGES = {
    "coarse stage": [("bisvbi", "coarse_working_set")],
    "  search in the residual": [("search", "PathSearch.spectrum"), ("search", "PathSearch.peaks")],
    "use of data": [("bisvbi", "BiSVBILoop._use_data")],
    "  symbol detection": [("scene_loop", "detect")],
    "E-step": [("working_set", "WorkingSet.e_step")],
    "M-step": [("bisvbi", "BiSVBILoop._m_step")],
    "structure": [("bisvbi", "BiSVBILoop._revise_structure")],
    "result": [("scene_loop", "SceneLoop.result")],
    "  channel variance": [("assemble", "channel_variance")],
    "everywhere: refinement": [("gauss_newton", "_normal_equations"), ("gauss_newton", "evaluate")],
}


class StageClock:
    """Adds up the time inside functions of the estimators."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        for stage, functions in STAGES.items():
            for module, name in functions:
                self._watch(stage, importlib.import_module(f"isac_toolbox.estimators.{module}"), name)

    def reset(self) -> None:
        """Back to zero."""
        for stage in self.seconds:
            self.seconds[stage] = 0.0

    def _watch(self, stage: str, module: Any, name: str) -> None:
        owner, _, method = name.rpartition(".")
        target = getattr(module, owner) if owner else module
        if hasattr(target, method):
            setattr(target, method, self._timed(stage, getattr(target, method)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = process_time()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[stage] += process_time() - start

        return timed


def work(case: str) -> None:
    """Times of one case, again and again."""
    import isac_toolbox as isac

    observation = isac.Scenario.load(case).simulate(seed=0).observation
    estimator = isac.EMTurboBiSVBI()
    estimator.estimate(observation)

    clock = StageClock()

    def measure() -> dict[str, float]:
        clock.reset()
        start = process_time()
        estimator.estimate(observation)
        return {"whole estimate": process_time() - start} | clock.seconds

    serve(measure)


def compare(case: str, trees: dict[str, Path], repeats: int) -> list[list[str]]:
    """Rows of one case: milliseconds of every tree, and the ratio of the first to the last."""
    workers = {name: Worker(Path(__file__), tree, case) for name, tree in trees.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(repeats):
        for name, worker in workers.items():
            runs[name].append(worker.ask())
    for worker in workers.values():
        worker.close()
    rows = []
    for stage in ("whole estimate", *STAGES):
        median = [float(np.median([run[stage] for run in own])) for own in runs.values()]
        ratio = f"{median[0] / median[-1]:.1f}" if len(median) > 1 and min(median) > 0 else "-"
        rows.append([stage, *(f"{1e3 * t:.1f}" if t else "-" for t in median), ratio])
    return rows


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--baseline", type=Path, help="folder with the tree of another commit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    trees = {"baseline ms": arguments.baseline} if arguments.baseline else {}
    trees["now ms"] = ROOT
    print(f"complex matrix products: {gemm_rate() / 1e9:.1f} Gflop/s, one thread\n")
    for case in arguments.cases:
        repeats = arguments.repeats if "massive" not in case else max(arguments.repeats // 2, 1)
        rows = compare(case, trees, repeats)
        print_table(f"{case}, seed 0, processor time", ["stage", *trees, "ratio"], rows)


if __name__ == "__main__":
    main()
