"""That modelling beam squint costs nothing, and that the estimator finds squint that nobody asked for.

Where the observation does not ask for it, the estimator first looks for paths in what its model leaves, then
tries squint and runs again. The large array takes a minute and runs on the first seed only.

    python benchmarks/accuracy/squint.py [--seeds 5] > benchmarks/accuracy/squint.txt
"""

from __future__ import annotations

from dataclasses import replace

from runs import COLUMNS, options, print_table, row, run_trials, seeds_of, seeds_text

import isac_toolbox as isac
from isac_toolbox.scenario import Simulation

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "8 x 8, 96 MHz, 3.5 GHz": ("urban_uplink", {}),
    "8 x 8, 96 MHz, 28 GHz": ("urban_uplink", {"carrier_hz": 28e9}),
    "16 x 16, 100 MHz, 3.5 GHz": ("massive_uplink", {}),
}


def modelled(simulation: Simulation) -> isac.EstimationResult:
    """The estimator as the observation asks for it."""
    return isac.EMTurboBiSVBI().estimate(simulation.observation)


def found(simulation: Simulation) -> isac.EstimationResult:
    """The same block without asking for it."""
    return isac.EMTurboBiSVBI().estimate(replace(simulation.observation, beam_squint=False))


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=5).parse_args()
    rows = []
    for name, (base, changes) in CASES.items():
        scenario = isac.Scenario.load(base).replace(beam_squint=True, **changes)
        for label, estimate in (("asked for", modelled), ("found", found)):
            seeds = seeds_of(arguments)
            seeds = seeds[:1] if base == "massive_uplink" else seeds
            trials = run_trials(scenario, seeds, estimate, arguments.jobs)
            rows.append([name, label, str(len(seeds)), *row(trials)])
    print_table(f"beam squint, 10 dB, {seeds_text(arguments)}", ["case", "squint", "blocks", *COLUMNS], rows)


if __name__ == "__main__":
    main()
