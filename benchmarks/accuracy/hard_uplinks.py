"""Uplinks that are harder than the standard case, at 10 dB unless said, against the bound.

python benchmarks/accuracy/hard_uplinks.py [--seeds 20]
"""

from __future__ import annotations

from runs import COLUMNS, Pool, options, print_table, row, run_trials, seeds_of, seeds_text

import isac_toolbox as isac

CASES: dict[str, dict[str, object]] = {
    "comb pilots": {"pilot_pattern": "comb"},
    "comb, 2 pilots of 3 users": {"pilot_pattern": "comb", "n_pilot_symbols": 2},
    "random pilots": {"pilot_pattern": "random"},
    "random, 2 pilots of 3 users": {"pilot_pattern": "random", "n_pilot_symbols": 2},
    "random, 3 pilots of 6 users": {
        "pilot_pattern": "random",
        "n_pilot_symbols": 3,
        "n_users": 6,
        "n_scatterers": 12,
    },
    "16-QAM": {"modulation": "16qam"},
    "64-QAM, 20 dB": {"modulation": "64qam", "snr_db": 20.0},
    "near and far users": {
        "power_control": False,
        "user_region_m": ((25.0, -30.0, 1.5), (150.0, 30.0, 1.5)),
    },
    "half without line of sight": {
        "line_of_sight_probability": 0.5,
        "n_users": 4,
        "n_pilot_symbols": 4,
    },
    "pairs 4 to 8 m apart": {"burst_size": 2, "burst_radius_m": 4.5, "min_separation_m": 4.0},
    "12 users": {"n_users": 12, "n_pilot_symbols": 12, "n_scatterers": 16},
    "spherical wavefront": {"wavefront": "spherical"},
}


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=20).parse_args()
    seeds = seeds_of(arguments)
    rows = []
    for name, changes in CASES.items():
        scenario = isac.Scenario.load("urban_uplink").replace(**changes)
        trials = run_trials(
            scenario, seeds, lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation), arguments.jobs
        )
        genie = run_trials(
            scenario, seeds, lambda sim: isac.GenieLMMSE(truth=sim.truth).estimate(sim.observation), 1
        )
        rows.append([name, *row(trials), f"{Pool(genie).symbol_error_rate:.2g}"])
    heads = ["case", *COLUMNS, "genie SER"]
    print_table(f"urban_uplink, changed, {seeds_text(arguments)}", heads, rows)


if __name__ == "__main__":
    main()
