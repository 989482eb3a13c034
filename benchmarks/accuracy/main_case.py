"""The standard case against the bound, and what each choice of the estimator is worth.

python benchmarks/accuracy/main_case.py [--seeds 20] [--jobs 2] > benchmarks/accuracy/main_case.txt
"""

from __future__ import annotations

from runs import COLUMNS, options, print_table, row, run_trials, seeds_of, seeds_text

import isac_toolbox as isac

SNRS_DB = (0.0, 10.0, 20.0)

ESTIMATORS = {
    "EM-Turbo-BiSVBI": lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation),
    "  rule='structured'": lambda sim: isac.EMTurboBiSVBI(rule="structured").estimate(sim.observation),
    "  rule='mean_field'": lambda sim: isac.EMTurboBiSVBI(rule="mean_field").estimate(sim.observation),
    "  m_step='gradient'": lambda sim: isac.EMTurboBiSVBI(m_step="gradient").estimate(sim.observation),
    "  mean_field and gradient": lambda sim: isac.EMTurboBiSVBI(
        rule="mean_field", m_step="gradient"
    ).estimate(sim.observation),
    "  coarse='music'": lambda sim: isac.EMTurboBiSVBI(coarse="music").estimate(sim.observation),
    "  data_aided=False": lambda sim: isac.EMTurboBiSVBI(data_aided=False).estimate(sim.observation),
    "MUSIC-SCVBI": lambda sim: isac.MusicSCVBI().estimate(sim.observation),
    "NOMP with fusion": lambda sim: isac.NOMP().estimate(sim.observation),
    "least squares": lambda sim: isac.LeastSquares().estimate(sim.observation),
}


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=20).parse_args()
    scenario = isac.Scenario.load("urban_uplink")
    for snr_db in SNRS_DB:
        rows = []
        for name, estimate in ESTIMATORS.items():
            trials = run_trials(
                scenario.replace(snr_db=snr_db), seeds_of(arguments), estimate, arguments.jobs
            )
            rows.append([name, *row(trials)])
        title = f"urban_uplink, {snr_db:g} dB, {seeds_text(arguments)}"
        print_table(title, ["estimator", *COLUMNS], rows)


if __name__ == "__main__":
    main()
