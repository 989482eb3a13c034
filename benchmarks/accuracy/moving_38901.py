"""UMi of 3GPP TR 38.901 with users that move: EM-Turbo-BiSVBI beside the same drops at rest.

    python benchmarks/accuracy/moving_38901.py [--seeds 6] [--speed 10] [--store F] \
        > benchmarks/accuracy/moving_38901.txt

Needs the extra ``sionna``. 8 x 8 antennas, 128 subcarriers of 30 kHz at 3.5 GHz, QPSK, three users, a slot of
14 symbols with combs on symbols 2, 5, 8 and 11, clocks off by 100 ns, users known to 3 m. Directions of
motion are drawn, the estimator knows the speed as a standard deviation alone; carriers are not off. Rays of
up to 20 clusters have a Doppler shift each, so that what is no path turns as well.

The NMSE is over all symbols: moving with ``symbol_times_s``, the same drop and noise at rest without, and the
moving one taken as static. "- at rest" is the difference in the same block: the median and the worst block.
"errors" are wrong data symbols, moving and at rest. Times are medians and the worst block's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from any_channel_38901 import CLOCK_STD_S, USER_STD_M
from runs import Figures, options, print_table, run_tasks, seeds_of, seeds_text, timed, to_db
from sionna_38901 import CARRIER_HZ, FAMILIES, Drop, draw_drop

import isac_toolbox as isac
from isac_toolbox.channel.uplink import noise_variance_for_snr, receive

SNRS_DB = (0.0, 10.0, 20.0)
FAMILY, N_USERS, N_SUBCARRIERS, N_SYMBOLS = "UMi", 3, 128, 14
PILOT_SYMBOLS = (2, 5, 8, 11)
SYMBOL_S = 0.5e-3 / N_SYMBOLS
ARRAY = isac.UniformPlanarArray((8, 8))
FREQUENCIES_HZ = 30e3 * (np.arange(N_SUBCARRIERS) - (N_SUBCARRIERS - 1) / 2)


def block(drop: Drop, snr_db: float, seed: int) -> tuple[isac.UplinkObservation, np.ndarray, np.ndarray]:
    """Observation, channel (K, N, M, T) and indices of the symbols over a drop."""
    rng = np.random.default_rng([seed, 38903])
    pattern = (
        isac.Scenario.load("moving_uplink")
        .replace(n_users=N_USERS, n_subcarriers=N_SUBCARRIERS, subcarrier_spacing_hz=750e3, snr_db=snr_db)
        .simulate(seed)
    )
    clocks_s = CLOCK_STD_S * rng.standard_normal(N_USERS)
    turns = np.exp(-2j * np.pi * np.multiply.outer(clocks_s, FREQUENCIES_HZ))
    channel = drop.over_time * turns[:, :, None, None]
    noise_variance = noise_variance_for_snr(channel[..., 0], snr_db)
    reach_m = FAMILIES[FAMILY].distance_m[1]
    users_m = drop.user_positions_m + USER_STD_M * rng.standard_normal((N_USERS, 3))
    observation = replace(
        pattern.observation,
        received=receive(channel, pattern.truth.symbols, noise_variance, rng),
        array=ARRAY,
        carrier_hz=CARRIER_HZ,
        subcarrier_frequencies_hz=FREQUENCIES_HZ,
        bs_position_m=drop.bs_position_m,
        user_positions_m=users_m,
        user_position_std_m=np.asarray(USER_STD_M),
        time_offset_std_s=np.asarray(CLOCK_STD_S),
        region_m=np.array([[5.0, -reach_m, 0.0], [reach_m, reach_m, 30.0]]),
        symbol_times_s=SYMBOL_S * np.arange(N_SYMBOLS),
        frequency_offset_std_hz=None,
        user_velocities_m_s=None,
        user_velocity_std_m_s=None,
        scatterer_velocity_std_m_s=None,
    )
    return observation, channel, pattern.truth.symbol_indices


def run_block(line_of_sight: bool, snr_db: float, speed_m_s: float, seed: int) -> Figures:
    """The same drop moving, at rest, and moving but taken as static."""
    figures: Figures = {}
    for name, speed in (("rest", 0.0), ("moving", speed_m_s)):
        drop = draw_drop(
            FAMILY, line_of_sight, ARRAY, FREQUENCIES_HZ, N_USERS, seed, speed, SYMBOL_S, N_SYMBOLS
        )
        observation, channel, indices = block(drop, snr_db, seed)
        cases = {name: observation}
        if speed:
            spread = np.array([speed / np.sqrt(2), speed / np.sqrt(2), 0.0])
            cases = {name: replace(observation, user_velocity_std_m_s=spread), "static": observation}
        for case, given in cases.items():
            result, seconds = timed(lambda obs: isac.EMTurboBiSVBI().estimate(obs), given)
            found = result.channel_at(range(N_SYMBOLS))
            figures[case] = float(10 ** (isac.metrics.channel_nmse_db(found, channel) / 10))
            figures[f"{case}_seconds"] = seconds
            figures[f"{case}_status"] = result.status
            figures[f"{case}_wrong"] = int(np.sum((result.symbol_decision != indices) & (indices >= 0)))
            figures[f"{case}_paths"] = len(result.unlocated_paths) + len(result.scatterer_probability)
    return figures


HEADS = (
    "channel",
    "SNR dB",
    "moving dB",
    "at rest dB",
    "- at rest",
    "worst",
    "> 1 dB",
    "as static dB",
    "errors",
    "at rest",
    "s",
    "at rest",
    "worst s",
)


def row(case: tuple[bool, float], blocks: list[Figures]) -> list[str]:
    """Pooled figures of a case."""
    line_of_sight, snr_db = case
    moving, rest, static = (np.array([b[name] for b in blocks]) for name in ("moving", "rest", "static"))
    over = 10 * np.log10(moving / rest)
    seconds = np.array([b["moving_seconds"] for b in blocks])
    return [
        f"{FAMILY} {'LOS' if line_of_sight else 'NLOS'}",
        f"{snr_db:g}",
        f"{to_db(moving.mean()):.1f}",
        f"{to_db(rest.mean()):.1f}",
        f"{np.median(over):.2f}",
        f"{over.max():.2f}",
        f"{np.sum(over > 1)} of {len(blocks)}",
        f"{to_db(static.mean()):.1f}",
        str(sum(b["moving_wrong"] for b in blocks)),
        str(sum(b["rest_wrong"] for b in blocks)),
        f"{np.median(seconds):.1f}",
        f"{np.median([b['rest_seconds'] for b in blocks]):.1f}",
        f"{seconds.max():.1f}",
    ]


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=6, store=True)
    parser.add_argument("--speed", type=float, default=10.0, help="of the users, in m/s")
    arguments = parser.parse_args()
    cases = [(line_of_sight, snr_db) for line_of_sight in (True, False) for snr_db in SNRS_DB]
    seeds = seeds_of(arguments)
    tasks = [(*case, arguments.speed, seed) for case in cases for seed in seeds]
    figures = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
    rows = [row(case, figures[i * len(seeds) : (i + 1) * len(seeds)]) for i, case in enumerate(cases)]
    print_table(f"UMi of 3GPP TR 38.901 at {arguments.speed:g} m/s, {seeds_text(arguments)}", HEADS, rows)


if __name__ == "__main__":
    main()
