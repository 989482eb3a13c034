"""Every synthetic scenario from -10 to 30 dB against the bound.

python benchmarks/accuracy/regimes.py [--seeds 20] [--scenarios urban_uplink,rich_scattering]
"""

from __future__ import annotations

import argparse

from runs import COLUMNS, print_table, row, run_trials

import isac_toolbox as isac

SNRS_DB = (-10.0, -5.0, 0.0, 10.0, 20.0, 30.0)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scenarios", default="urban_uplink,rich_scattering,massive_uplink")
    arguments = parser.parse_args()
    for name in arguments.scenarios.split(","):
        rows = []
        for snr_db in SNRS_DB:
            trials = run_trials(
                isac.Scenario.load(name).replace(snr_db=snr_db),
                range(arguments.seeds),
                lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation),
                arguments.jobs,
            )
            rows.append([f"{snr_db:g}", *row(trials)])
        print_table(f"{name}, seeds 0-{arguments.seeds - 1}", ["SNR dB", *COLUMNS], rows)


if __name__ == "__main__":
    main()
