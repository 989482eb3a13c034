"""Do the data ever make the channel worse? Data-aided against pilot-only, block by block.

    python benchmarks/accuracy/data_aid.py --store data_aid.jsonl > benchmarks/accuracy/data_aid.txt

Gain is the pilot-only NMSE minus the data-aided one in dB. The limit: worse by more than 0.2 dB in at most
1 % of all runs. "fell back" counts the blocks whose data-aided outcome is the pilot-only one. The second
table names the blocks behind the share.
"""

from __future__ import annotations

import numpy as np
from runs import (
    Figures,
    count_symbol_errors,
    options,
    percent,
    print_table,
    run_tasks,
    seeds_of,
    seeds_text,
)

import isac_toolbox as isac

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "urban_uplink, -15 dB": ("urban_uplink", {"snr_db": -15.0}),
    "urban_uplink, -10 dB": ("urban_uplink", {"snr_db": -10.0}),
    "urban_uplink, -5 dB": ("urban_uplink", {"snr_db": -5.0}),
    "urban_uplink, 0 dB": ("urban_uplink", {"snr_db": 0.0}),
    "rich_scattering, 0 dB": ("rich_scattering", {"snr_db": 0.0}),
    "random, 2 pilots of 3 users, 10 dB": (
        "urban_uplink",
        {"pilot_pattern": "random", "n_pilot_symbols": 2, "snr_db": 10.0},
    ),
    "16-QAM, 0 dB": ("urban_uplink", {"modulation": "16qam", "snr_db": 0.0}),
    "64-QAM, 10 dB": ("urban_uplink", {"modulation": "64qam", "snr_db": 10.0}),
    "near and far users, 10 dB": (
        "urban_uplink",
        {
            "power_control": False,
            "user_region_m": ((25.0, -30.0, 1.5), (150.0, 30.0, 1.5)),
            "snr_db": 10.0,
        },
    ),
    "traced_munich, 5 dB": ("traced_munich", {"snr_db": 5.0}),
    "traced_street_canyon, 5 dB": ("traced_street_canyon", {"snr_db": 5.0}),
}
WORSE_DB = 0.2


def run_block(case: str, seed: int) -> Figures:
    """Channel errors of one block with and without data."""
    name, changes = CASES[case]
    simulation = isac.Scenario.load(name).replace(**changes).simulate(seed=seed)
    obs, truth = simulation.observation, simulation.truth
    results = {"aided": isac.EMTurboBiSVBI(), "pilots": isac.EMTurboBiSVBI(data_aided=False)}
    figures: Figures = {}
    for key, estimator in results.items():
        result = estimator.estimate(obs)
        wrong, symbols = count_symbol_errors(result, simulation)
        figures[f"{key}_db"] = isac.metrics.channel_nmse_db(result.channel, truth.channel)
        figures[f"{key}_ser"] = wrong / symbols
    figures["bound_db"] = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    return figures


def gains(runs: list[Figures]) -> np.ndarray:
    """Of the data, in dB, per run."""
    return np.array([r["pilots_db"] - r["aided_db"] for r in runs])


def case_row(name: str, runs: list[Figures]) -> list[str]:
    """Figures in the order of :data:`HEADS`."""
    gain = gains(runs)
    worse = int(np.sum(gain < -WORSE_DB))
    return [
        name,
        f"{worse} / {len(runs)} ({percent(worse, len(runs))})",
        str(int(np.sum(gain == 0))),
        f"{np.median(gain):.2f}",
        f"{gain.min():.2f}",
        f"{np.median([r['aided_db'] - r['bound_db'] for r in runs]):.2f}",
        f"{np.mean([r['aided_ser'] for r in runs]):.2g}",
        f"{np.mean([r['pilots_ser'] for r in runs]):.2g}",
    ]


HEADS = (
    "case",
    f"worse by > {WORSE_DB:g} dB",
    "fell back",
    "median gain dB",
    "worst gain dB",
    "median gap to bound dB",
    "SER",
    "SER, pilots only",
)


def worse_rows(runs: dict[tuple[str, int], Figures]) -> list[list[str]]:
    """The blocks that the data made worse, the worst first."""
    worse = [(r["pilots_db"] - r["aided_db"], task, r) for task, r in runs.items()]
    worse = sorted((w for w in worse if w[0] < -WORSE_DB), key=lambda w: w[0])
    return [
        [
            case,
            str(seed),
            f"{gain:.2f}",
            f"{r['aided_db']:.2f}",
            f"{r['pilots_db']:.2f}",
            f"{r['bound_db']:.2f}",
        ]
        for gain, (case, seed), r in worse
    ]


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=20, store=True).parse_args()
    tasks = [(case, seed) for case in CASES for seed in seeds_of(arguments)]
    runs = dict(zip(tasks, run_tasks(run_block, tasks, arguments.jobs, arguments.store)))
    rows = [case_row(case, [r for task, r in runs.items() if task[0] == case]) for case in CASES]
    rows.append(case_row("all", list(runs.values())))
    print_table(f"data-aided against pilot-only, {seeds_text(arguments)}", HEADS, rows)
    worse = worse_rows(runs)
    if worse:
        heads = ["case", "seed", "gain dB", "NMSE dB", "pilots only dB", "bound dB"]
        print_table(f"blocks worse by more than {WORSE_DB:g} dB", heads, worse)


if __name__ == "__main__":
    main()
