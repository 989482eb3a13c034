"""Many users who share time and frequency, against the bound and a linear receiver that knows the channel.

python benchmarks/accuracy/many_users.py [--seeds 20] > benchmarks/accuracy/many_users.txt
"""

from __future__ import annotations

from runs import COLUMNS, Pool, options, print_table, row, run_trials, seeds_of, seeds_text

import isac_toolbox as isac

#: Users, elements, modulation, SNR in dB.
CASES = [
    *((n_users, (8, 8), "qpsk", snr_db) for n_users in (8, 16, 24, 32) for snr_db in (0.0, 10.0)),
    *((n_users, (8, 8), "16qam", 10.0) for n_users in (8, 16, 24)),
    *((n_users, (4, 4), "qpsk", 10.0) for n_users in (6, 8)),
    *((n_users, (4, 4), "16qam", 15.0) for n_users in (4, 6)),
]


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=20).parse_args()
    seeds = seeds_of(arguments)
    rows = []
    for n_users, shape, modulation, snr_db in CASES:
        scenario = isac.Scenario.load("urban_uplink").replace(
            n_users=n_users,
            n_pilot_symbols=n_users,
            array_shape=shape,
            modulation=modulation,
            snr_db=snr_db,
        )
        trials = run_trials(
            scenario, seeds, lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation), arguments.jobs
        )
        genie = run_trials(
            scenario, seeds, lambda sim: isac.GenieLMMSE(truth=sim.truth).estimate(sim.observation), 1
        )
        name = f"{n_users} users, {shape[0] * shape[1]} antennas, {modulation}, {snr_db:g} dB"
        rows.append([name, *row(trials), f"{Pool(genie).symbol_error_rate:.2g}"])
    print_table(f"urban_uplink, {seeds_text(arguments)}", ["case", *COLUMNS, "genie LMMSE SER"], rows)


if __name__ == "__main__":
    main()
