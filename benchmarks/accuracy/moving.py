"""Users that move and are off their carrier: errors over speed, offset and SNR beside the bound.

Usage: ``python benchmarks/accuracy/moving.py [--seeds 20] [--first-seed 0] > benchmarks/accuracy/moving.txt``
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from runs import asked_seeds

import isac_toolbox as isac

SPEEDS_KM_H = (3.0, 30.0, 120.0)
OFFSETS_HZ = (0.0, 200.0, 1000.0)
SNRS_DB = (0.0, 10.0, 20.0)
PHASE_NOISE_DEG = (0.5, 2.0, 5.0)
NEAR_M = 1.0


@dataclass
class Block:
    """What one block came to."""

    nmse_db: float
    bound_db: float
    velocity_squared: float
    velocity_bound_squared: float
    n_found: int
    n_points: int
    n_false: int
    n_reported: int
    n_errors: int
    n_genie_errors: int
    moving: list[tuple[float, bool]]
    covered: list[bool]


def estimate(scenario: isac.Scenario, seed: int) -> Block:
    """Simulate and estimate one block."""
    simulation = scenario.simulate(seed=seed)
    obs, truth = simulation.observation, simulation.truth
    bound = isac.bounds.hybrid_crb(simulation)
    result = isac.EMTurboBiSVBI().estimate(obs)
    symbols = range(obs.pilots.shape[2])
    nmse_db = isac.metrics.channel_nmse_db(result.channel_at(symbols), truth.channel_at(symbols))
    away = np.linalg.norm(result.scatterer_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
    hit = away.min(axis=1, initial=np.inf) < NEAR_M
    nearest = away.argmin(axis=1) if away.size else np.zeros(0, int)
    truly = np.any(truth.scatterer_velocities_m_s != 0, axis=1)
    moving = result.moving_probability
    moving_pairs = (
        []
        if moving is None
        else [(float(p), bool(truly[q])) for p, q, near in zip(moving, nearest, hit, strict=True) if near]
    )
    error = result.user_velocities_m_s - truth.user_velocities_m_s
    covariance = result.user_velocity_covariance_m2_s2[:, :2, :2]
    squared = np.einsum("ki,kij,kj->k", error[:, :2], np.linalg.inv(covariance), error[:, :2])
    return Block(
        nmse_db,
        bound.channel_nmse_db,
        float(np.sum(error**2)),
        float(np.sum(bound.user_velocity_rmse_m_s**2)),
        int(np.sum(away.min(axis=0, initial=np.inf) < NEAR_M)),
        len(truth.scatterer_positions_m),
        int(np.sum(~hit)),
        len(hit),
        _errors(result.symbol_decision, truth.symbol_indices),
        _errors(genie_decisions(simulation), truth.symbol_indices),
        moving_pairs,
        [bool(s < 5.991) for s in squared],
    )


def _errors(decisions: np.ndarray, indices: np.ndarray) -> int:
    return int(np.sum((decisions != indices) & (indices >= 0)))


def genie_decisions(simulation: isac.Simulation) -> np.ndarray:
    """Decisions of the linear receiver that knows the channel of every symbol, shape (K, N, T)."""
    obs, truth = simulation.observation, simulation.truth
    channel = truth.channel_at(range(obs.pilots.shape[2]))
    n_users = len(channel)
    decisions = np.full(obs.pilots.shape, -1)
    for t in np.flatnonzero(np.any(~obs.known, axis=(0, 1))):
        h = channel[..., t].transpose(1, 2, 0)
        gram = h.conj().transpose(0, 2, 1) @ h + truth.noise_variance * np.eye(n_users)
        matched = np.einsum("nmk,nm->nk", h.conj(), obs.received[..., t])
        linear = np.linalg.inv(gram)
        symbol = np.einsum("nkj,nj->kn", linear, matched)
        gain = 1 - truth.noise_variance * np.real(np.einsum("nkk->kn", linear))
        decisions[..., t] = np.argmin(np.abs((symbol / gain)[..., None] - obs.constellation), axis=-1)
    return decisions


def row(label: str, blocks: list[Block]) -> str:
    """One line of the table."""
    excess = np.array([b.nmse_db - b.bound_db for b in blocks])
    velocity = np.sqrt(
        sum(b.velocity_squared for b in blocks) / max(sum(b.velocity_bound_squared for b in blocks), 1e-300)
    )
    found = 100 * sum(b.n_found for b in blocks) / sum(b.n_points for b in blocks)
    false = 100 * sum(b.n_false for b in blocks) / max(sum(b.n_reported for b in blocks), 1)
    covered = 100 * np.mean([c for b in blocks for c in b.covered])
    errors, genie = sum(b.n_errors for b in blocks), sum(b.n_genie_errors for b in blocks)
    return (
        f"{label:<34}{np.median(excess):>8.2f}{excess.max():>8.2f}{found:>8.1f}{false:>7.1f}{velocity:>9.2f}"
        f"{covered:>9.1f}{errors:>8d}{genie:>8d}"
    )


def header() -> str:
    """Names of the columns."""
    return (
        f"{'cell':<34}{'median':>8}{'worst':>8}{'found %':>8}{'false %':>7}{'velocity':>9}{'in 95 %':>9}"
        f"{'errors':>8}{'genie':>8}"
    )


def main() -> None:
    """Print the tables."""
    seeds = asked_seeds(__doc__)
    base = isac.Scenario.load("moving_uplink").replace(
        user_velocity_std_m_s=(20.0, 20.0, 1.0), scatterer_velocity_std_m_s=0.0, moving_share=0.0
    )
    print(f"EM-Turbo-BiSVBI, {len(seeds)} blocks a cell, seeds from {seeds.start}: NMSE over")
    print("all symbols above the bound in dB; velocity: RMSE over its bound; errors: of symbols.\n")
    print(header())
    for snr in SNRS_DB:
        for speed in SPEEDS_KM_H:
            for offset in OFFSETS_HZ:
                cell = base.replace(snr_db=snr, user_speed_m_s=speed / 3.6, frequency_offset_std_hz=offset)
                label = f"{snr:.0f} dB, {speed:.0f} km/h, {offset:.0f} Hz"
                print(row(label, [estimate(cell, seed) for seed in seeds]), flush=True)
    for degrees in PHASE_NOISE_DEG:
        std = float(np.deg2rad(degrees))
        cell = base.replace(
            snr_db=20.0, user_speed_m_s=30 / 3.6, user_phase_noise_std_rad=std, phase_noise_std_rad=std
        )
        label = f"20 dB, 30 km/h, {degrees:.1f} deg a symbol"
        print(row(label, [estimate(cell, seed) for seed in seeds]), flush=True)
    movers(seeds)


def movers(seeds: range) -> None:
    """Print how well moving scatterers are told from resting ones."""
    pairs: list[tuple[float, bool]] = []
    for name in ("moving_uplink", "moving_mmwave"):
        blocks = [estimate(isac.Scenario.load(name), seed) for seed in seeds]
        print(row(name, blocks), flush=True)
        pairs += [pair for block in blocks for pair in block.moving]
    probability, truly = np.array([p for p, _ in pairs]), np.array([m for _, m in pairs])
    error = isac.metrics.expected_calibration_error(probability, truly)
    found = np.mean(probability[truly] > 0.9)
    print(f"\nmovers: {truly.sum()} of {truly.size}; {100 * found:.0f} % have p > 0.9; ECE {error:.3f}")


if __name__ == "__main__":
    main()
