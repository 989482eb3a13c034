"""UMi and UMa of 3GPP TR 38.901, with and without line of sight: EM-Turbo-BiSVBI beside pilots-only rivals.

    python benchmarks/accuracy/any_channel_38901.py [--seeds 20] [--store F] \
        > benchmarks/accuracy/any_channel_38901.txt

Needs the extra ``sionna``. 8 x 8 antennas, 128 subcarriers of 30 kHz at 3.5 GHz, QPSK, 6 data symbols,
static. Every cell has as many blocks of one and of two users with orthogonal pilots on 2 symbols as of three
and of four with combs on 3 and 4. Users are known to 3 m and clocks to 100 ns, the region is the users'
sector. There are no scatterers, only up to 400 rays a user, so every point is false: "false" counts those
with a probability above 0.9 per ten blocks.

"- rivals" is the NMSE of the estimator over that of the best of NOMP, OMP and least squares in the same
block: the median, the worst block, and the blocks above +0.3 dB. "- LMMSE" is the same beside the
conditional mean of the channel given the pilots and the covariance of the drop's rays under random phases
(any_channel_cdl.py): of mean errors, and the worst block. "errors" are wrong data symbols of the estimator
and of the receiver with the LMMSE's channel. "time" is the median relative to blocks of as many users,
antennas, subcarriers and symbols whose paths are the model's (urban_uplink over 96 MHz). "not converged"
counts every other status.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from any_channel_cdl import SURE, lmmse
from runs import (
    Figures,
    count_symbol_errors,
    options,
    print_table,
    run_tasks,
    seeds_of,
    seeds_text,
    timed,
    to_db,
)
from sionna_38901 import FAMILIES, draw_drop

import isac_toolbox as isac
from isac_toolbox.channel.uplink import noise_variance_for_snr, receive
from isac_toolbox.scenario import Simulation

SNRS_DB = (0.0, 10.0, 20.0)
#: Users, pilot pattern, pilot symbols; blocks of successive seeds take them in turn.
PILOTS = ((1, "orthogonal", 2), (2, "orthogonal", 2), (3, "comb", 3), (4, "comb", 4))
USER_STD_M = 3.0
CLOCK_STD_S = 100e-9
ALLOWED_DB = 0.3
RIVALS = {"NOMP": isac.NOMP, "OMP": isac.OMP, "LeastSquares": isac.LeastSquares}


def ideal_block(snr_db: float, seed: int) -> Simulation:
    """A block of the same size whose paths are the model's."""
    n_users, pattern, n_pilots = PILOTS[seed % len(PILOTS)]
    return (
        isac.Scenario.load("urban_uplink")
        .replace(
            n_users=n_users,
            n_subcarriers=128,
            subcarrier_spacing_hz=750e3,
            pilot_pattern=pattern,
            n_pilot_symbols=n_pilots,
            n_data_symbols=6,
            snr_db=snr_db,
        )
        .simulate(seed)
    )


def block_38901(family: str, line_of_sight: bool, snr_db: float, seed: int) -> Simulation:
    """The same symbols over a channel of TR 38.901."""
    ideal = ideal_block(snr_db, seed)
    n_users = ideal.observation.n_users
    rng = np.random.default_rng([seed, 38902])
    array = isac.UniformPlanarArray((8, 8))
    frequencies_hz = 30e3 * (np.arange(128) - 63.5)
    drop = draw_drop(family, line_of_sight, array, frequencies_hz, n_users, seed)
    clocks_s = CLOCK_STD_S * rng.standard_normal(n_users)
    turns = np.exp(-2j * np.pi * np.multiply.outer(clocks_s, frequencies_hz))
    channel = drop.channel * turns[:, :, None]
    noise_variance = noise_variance_for_snr(channel, snr_db)
    reach_m = FAMILIES[family].distance_m[1]
    observation = replace(
        ideal.observation,
        received=receive(channel, ideal.truth.symbols, noise_variance, rng),
        array=array,
        subcarrier_frequencies_hz=frequencies_hz,
        bs_position_m=drop.bs_position_m,
        user_positions_m=drop.user_positions_m + USER_STD_M * rng.standard_normal((n_users, 3)),
        user_position_std_m=np.asarray(USER_STD_M),
        time_offset_std_s=np.asarray(CLOCK_STD_S),
        region_m=np.array([[5.0, -reach_m, 0.0], [reach_m, reach_m, 30.0]]),
    )
    truth = replace(
        ideal.truth,
        channel=channel,
        user_positions_m=drop.user_positions_m,
        time_offsets_s=clocks_s,
        noise_variance=noise_variance,
        line_of_sight=np.zeros(n_users, bool),  # it is among the rays
        rays=drop.rays,
    )
    return Simulation(observation, truth)


def run_block(family: str, line_of_sight: bool, snr_db: float, seed: int) -> Figures:
    """All estimators on one block."""
    simulation = block_38901(family, line_of_sight, snr_db, seed)
    observation, truth = simulation.observation, simulation.truth

    def nmse(result: isac.EstimationResult) -> float:
        return float(10 ** (isac.metrics.channel_nmse_db(result.channel, truth.channel) / 10))

    ideal = ideal_block(snr_db, seed)
    _, ideal_seconds = timed(lambda s: isac.EMTurboBiSVBI().estimate(s.observation), ideal)
    result, seconds = timed(lambda s: isac.EMTurboBiSVBI().estimate(s.observation), simulation)
    known = lmmse(simulation)
    wrong, symbols = count_symbol_errors(result, simulation)
    return {
        "nmse": nmse(result),
        "lmmse": nmse(known),
        **{name: nmse(rival().estimate(observation)) for name, rival in RIVALS.items()},
        "wrong": wrong,
        "lmmse_wrong": count_symbol_errors(known, simulation)[0],
        "symbols": symbols,
        "false": int(np.sum(result.scatterer_probability > SURE)),
        "points": len(result.scatterer_probability),
        "unlocated": len(result.unlocated_paths),
        "status": result.status,
        "seconds": seconds,
        "ideal_seconds": ideal_seconds,
    }


HEADS = (
    "channel",
    "SNR dB",
    "NMSE dB",
    "best rival",
    "- rivals",
    "worst",
    "> 0.3 dB",
    "- LMMSE dB",
    "worst",
    "errors",
    "of LMMSE",
    "false in 10",
    "time",
    "worst s",
    "not converged",
)


def row(case: tuple[str, bool, float], blocks: list[Figures]) -> list[str]:
    """Pooled figures of a case."""
    family, line_of_sight, snr_db = case
    nmse, known = (np.array([b[name] for b in blocks]) for name in ("nmse", "lmmse"))
    rivals = np.array([[b[name] for name in RIVALS] for b in blocks])
    over = 10 * np.log10(nmse / rivals.min(axis=1))
    over_known = 10 * np.log10(nmse / known)
    wins = Counter(list(RIVALS)[i] for i in rivals.argmin(axis=1))
    statuses = Counter(b["status"] for b in blocks if b["status"] != "converged")
    seconds, ideal = (np.array([b[name] for b in blocks]) for name in ("seconds", "ideal_seconds"))
    return [
        f"{family} {'LOS' if line_of_sight else 'NLOS'}",
        f"{snr_db:g}",
        f"{to_db(nmse.mean()):.1f}",
        wins.most_common(1)[0][0],
        f"{np.median(over):.1f}",
        f"{over.max():.1f}",
        f"{np.sum(over > ALLOWED_DB)} of {len(blocks)}",
        f"{to_db(nmse.mean() / known.mean()):.1f}",
        f"{over_known.max():.1f}",
        str(sum(b["wrong"] for b in blocks)),
        str(sum(b["lmmse_wrong"] for b in blocks)),
        f"{10 * np.mean([b['false'] for b in blocks]):.1f}",
        f"{np.median(seconds / ideal):.1f}",
        f"{seconds.max():.1f}",
        ", ".join(f"{count} {status}" for status, count in statuses.items()) or "0",
    ]


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=20, store=True)
    arguments = parser.parse_args()
    cases = [
        (family, line_of_sight, snr_db)
        for family in FAMILIES
        for line_of_sight in (True, False)
        for snr_db in SNRS_DB
    ]
    seeds = seeds_of(arguments)
    figures = run_tasks(run_block, [(*c, s) for c in cases for s in seeds], arguments.jobs, arguments.store)
    rows = [row(case, figures[i * len(seeds) : (i + 1) * len(seeds)]) for i, case in enumerate(cases)]
    print_table(f"UMi and UMa of 3GPP TR 38.901, {seeds_text(arguments)}", HEADS, rows)


if __name__ == "__main__":
    main()
