"""Blocks whose delays, clocks or directions are known up to a period only, beside bound and least squares.

    python benchmarks/accuracy/ambiguous.py [--seeds 20] > benchmarks/accuracy/ambiguous.txt

All at 20 dB. "within 1 dB" and "3 dB" count blocks by their channel error above the bound of that block,
which is an expectation, so that single blocks of the best estimator lie on both sides of it; "> LS" counts
blocks worse than least squares by 0.3 dB. A scatterer is right if it, or an alternative that the result
lists, is within 2 m of a true one. "covered" is the share of right scatterers, and of clocks, whose 95 %
region holds the truth, alternatives counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from runs import Figures, options, percent, print_table, run_tasks, seeds_of, seeds_text, timed

import isac_toolbox as isac
from isac_toolbox.scenario import Simulation

RIGHT_M = 2.0
#: 95 % of chi-square with three degrees of freedom, and of a normal deviate.
ELLIPSOID, DEVIATIONS = 7.815, 1.96

BASE = isac.Scenario.load("urban_uplink").replace(snr_db=20)


def with_pilots(simulation: Simulation, pilots: np.ndarray, known: np.ndarray, seed: int) -> Simulation:
    """The same scene with other pilots (K, N, T) where ``known`` (N, T), data elsewhere, and fresh noise."""
    rng = np.random.default_rng(seed)
    observation, truth = simulation.observation, simulation.truth
    indices = rng.integers(0, observation.constellation.size, pilots.shape)
    symbols = np.where(known, pilots, observation.constellation[indices])
    clean = np.einsum("knm,knt->nmt", truth.channel, symbols)
    noise = rng.standard_normal((*clean.shape, 2)) @ [1, 1j] * np.sqrt(truth.noise_variance / 2)
    observation = replace(
        observation, received=clean + noise, pilots=np.where(known, pilots, 0), pilot_mask=known
    )
    truth = replace(truth, symbols=symbols, symbol_indices=np.where(known, -1, indices))
    return Simulation(observation, truth)


def scattered(seed: int) -> Simulation:
    """Pilots as LTE scatters them: every sixth subcarrier, shifted by three in every fourth symbol."""
    simulation = BASE.replace(n_users=2).simulate(seed)
    n_users, n_tones, n_symbols = simulation.observation.pilots.shape
    tone, symbol = np.meshgrid(np.arange(n_tones), np.arange(n_symbols), indexing="ij")
    known = (symbol % 4 == 0) & (tone % 3 == 0)
    sends = (tone + 3 * (symbol // 4 % 2)) // 3 % n_users == np.arange(n_users)[:, None, None]
    phase = np.exp(0.5j * np.pi * np.random.default_rng(seed).integers(0, 4, sends.shape))
    return with_pilots(simulation, np.sqrt(n_users) * sends * phase, known, seed)


def sounding(seed: int) -> Simulation:
    """Sounding signals: a comb of four that four users share by cyclic shifts, 120 kHz, 264 subcarriers."""
    scenario = BASE.replace(n_users=4, n_subcarriers=264, subcarrier_spacing_hz=120e3, n_data_symbols=10)
    simulation = scenario.simulate(seed)
    n_users, n_tones, n_symbols = simulation.observation.pilots.shape
    tone = np.arange(n_tones)
    root = np.exp(-1j * np.pi * 25 * tone * (tone + 1) / 139)
    shifts = np.exp(2j * np.pi * np.multiply.outer(np.arange(n_users) / n_users, tone // 4))
    pilots = np.zeros((n_users, n_tones, n_symbols), complex)
    known = np.zeros((n_tones, n_symbols), bool)
    for t in range(2):
        pilots[:, t::4, t] = 2 * (root * shifts)[:, t::4]
        known[:, t] = True
    return with_pilots(simulation, pilots, known, seed)


def two_bands(seed: int) -> Simulation:
    """Two bands of 48 MHz whose centres are 240 MHz apart."""
    simulation = BASE.replace(n_subcarriers=192).simulate(seed)
    kept = np.r_[0:32, 160:192]
    observation, truth = simulation.observation, simulation.truth
    observation = replace(
        observation,
        received=observation.received[kept],
        pilots=observation.pilots[:, kept],
        pilot_mask=observation.pilot_mask[..., kept, :],
        subcarrier_frequencies_hz=observation.subcarrier_frequencies_hz[kept],
    )
    truth = replace(
        truth,
        channel=truth.channel[:, kept],
        symbols=truth.symbols[:, kept],
        symbol_indices=truth.symbol_indices[:, kept],
    )
    return Simulation(observation, truth)


def drawn(**changes: object) -> Callable[[int], Simulation]:
    """Blocks of a scenario with some fields changed."""
    return lambda seed: BASE.replace(**changes).simulate(seed)


CASES: dict[str, Callable[[int], Simulation]] = {
    "full tones, half a wavelength, clocks 5 ns": drawn(),
    "comb, 2 users, 1 symbol": drawn(pilot_pattern="comb", n_users=2, n_pilot_symbols=1),
    "comb, 3 users, 1 symbol": drawn(pilot_pattern="comb", n_users=3, n_pilot_symbols=1),
    "comb, 4 users, 2 symbols": drawn(pilot_pattern="comb", n_users=4, n_pilot_symbols=2),
    "comb, 4 users, 1 symbol": drawn(pilot_pattern="comb", n_users=4, n_pilot_symbols=1),
    "scattered pilots": scattered,
    "sounding comb of 4, cyclic shifts": sounding,
    "clocks 50 ns (period 667 ns)": drawn(time_offset_std_s=50e-9),
    "clocks 200 ns": drawn(time_offset_std_s=200e-9),
    "clocks 600 ns": drawn(time_offset_std_s=600e-9),
    "clocks 2 us": drawn(time_offset_std_s=2e-6),
    "clocks 200 ns, half the lines of sight": drawn(time_offset_std_s=200e-9, line_of_sight_probability=0.5),
    "spacing 1.0 wavelengths": drawn(spacing_wavelengths=1.0),
    "spacing 1.2 wavelengths": drawn(spacing_wavelengths=1.2),
    "spacing 1.5 wavelengths": drawn(spacing_wavelengths=1.5),
    "spacing 2.0 wavelengths": drawn(spacing_wavelengths=2.0),
    "38 x 2.5 MHz (period 120 m)": drawn(n_subcarriers=38, subcarrier_spacing_hz=2.5e6),
    "20 x 5 MHz (period 60 m)": drawn(n_subcarriers=20, subcarrier_spacing_hz=5e6),
    "16 x 6 MHz (period 50 m)": drawn(n_subcarriers=16, subcarrier_spacing_hz=6e6),
    "two bands of 48 MHz, 240 MHz apart": two_bands,
}


def run_block(case: str, seed: int) -> Figures:
    """One block of a case."""
    simulation = CASES[case](seed)
    result, seconds = timed(lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation), simulation)
    plain = isac.LeastSquares().estimate(simulation.observation)
    truth, channel = simulation.truth, simulation.truth.channel
    return {
        "nmse_db": isac.metrics.channel_nmse_db(result.channel, channel),
        "bound_db": isac.bounds.hybrid_crb(simulation).channel_nmse_db,
        "plain_db": isac.metrics.channel_nmse_db(plain.channel, channel),
        "true": len(truth.scatterer_positions_m),
        "ambiguous": len(result.ambiguities) > 0,
        "seconds": seconds,
        **judged_places(result, truth.scatterer_positions_m),
        **judged_clocks(result, truth.time_offsets_s),
    }


def judged_places(result: isac.EstimationResult, true_m: np.ndarray) -> Figures:
    """How many scatterers are right at once, right by an alternative, false, and covered."""
    at_once = by_alternative = false = covered = 0
    found = set()
    for row, point in enumerate(result.scatterer_positions_m):
        others = [a for a in result.ambiguities if a.kind == "scatterer" and a.index == row]
        places = np.vstack([point, *(a.alternatives for a in others)])
        apart = np.linalg.norm(places[:, None] - true_m, axis=2)
        place, nearest = np.unravel_index(np.argmin(apart), apart.shape) if apart.size else (0, 0)
        if not apart.size or apart[place, nearest] > RIGHT_M:
            false += 1
            continue
        at_once += bool(apart[0].min() <= RIGHT_M)
        by_alternative += bool(apart[0].min() > RIGHT_M)
        found.add(int(nearest))
        error = true_m[nearest] - places[place]
        covered += bool(error @ np.linalg.solve(result.scatterer_covariance_m2[row], error) < ELLIPSOID)
    probability = float(np.sum(result.scatterer_probability))
    return {
        "at_once": at_once,
        "by_alternative": by_alternative,
        "false": false,
        "covered": covered,
        "found": len(found),
        "probability": probability,
    }


def judged_clocks(result: isac.EstimationResult, true_s: np.ndarray) -> Figures:
    """How many clocks there are, and are covered by their deviation or by that of an alternative."""
    covered = 0
    for k, offset in enumerate(true_s):
        own = [a.alternatives[:, 0] for a in result.ambiguities if a.kind == "clock" and a.index == k]
        values = np.concatenate([[result.time_offsets_s[k]], *own])
        covered += bool(np.min(np.abs(values - offset)) < DEVIATIONS * result.time_offset_std_s[k])
    return {"clocks": len(true_s), "clocks_covered": covered}


HEADS = (
    "case",
    "NMSE dB median (bound)",
    "worst gap dB",
    "within 1 dB",
    "3 dB",
    "> LS",
    "scatterers",
    "right",
    "by alternative",
    "false",
    "sum of p",
    "covered",
    "clocks covered",
    "ambiguous",
    "median s",
    "worst s",
)


def row(case: str, blocks: list[Figures]) -> list[str]:
    """Pooled figures of a case."""
    gap = np.array([b["nmse_db"] - b["bound_db"] for b in blocks])

    def total(name: str) -> float:
        return float(sum(b[name] for b in blocks))

    right = total("at_once") + total("by_alternative")
    worse = sum(b["nmse_db"] > b["plain_db"] + 0.3 for b in blocks)
    median, bound = (float(np.median([b[name] for b in blocks])) for name in ("nmse_db", "bound_db"))
    return [
        case,
        f"{median:.1f} ({bound:.1f})",
        f"{gap.max():.1f}",
        percent(float(np.sum(gap < 1)), gap.size, 0),
        percent(float(np.sum(gap < 3)), gap.size, 0),
        str(worse),
        f"{total('true'):.0f}",
        f"{total('at_once'):.0f}",
        f"{total('by_alternative'):.0f}",
        f"{total('false'):.0f}",
        f"{total('probability'):.1f}",
        percent(total("covered"), right, 0),
        percent(total("clocks_covered"), total("clocks"), 0),
        f"{total('ambiguous'):.0f} of {len(blocks)}",
        f"{np.median([b['seconds'] for b in blocks]):.2f}",
        f"{max(b['seconds'] for b in blocks):.2f}",
    ]


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=20, store=True)
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="parts of the names of cases")
    arguments = parser.parse_args()
    cases = [case for case in CASES if any(part in case for part in arguments.cases)]
    tasks = [(case, seed) for case in cases for seed in seeds_of(arguments)]
    figures = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
    per_case = len(seeds_of(arguments))
    rows = [row(case, figures[i * per_case : (i + 1) * per_case]) for i, case in enumerate(cases)]
    print_table(f"ambiguous blocks, 20 dB, {seeds_text(arguments)}", HEADS, rows)


if __name__ == "__main__":
    main()
