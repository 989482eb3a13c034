"""What the command line reports: one plain dictionary per command, the one that ``--json`` writes.

Quantities that are not finite or cannot be computed are None; those that need a truth are left out without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox import metrics
from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.geometry import bistatic_delays_s, delay_response, line_of_sight_delays_s
from isac_toolbox.channel.model import response_towards
from isac_toolbox.cli.turning import elements_report, motion_report
from isac_toolbox.estimators.scene.remedies import headline

if TYPE_CHECKING:
    from isac_toolbox.bounds import HybridBound
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult, SceneRecorder
    from isac_toolbox.scenario import Simulation, Truth

__all__ = [
    "MATCH_DISTANCE_M",
    "Report",
    "Run",
    "bound_report",
    "describe_block",
    "estimation_report",
    "plain",
    "unlocated_energy_share",
]

MATCH_DISTANCE_M = 2.0
Report = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One estimation with everything known about it.

    ``simulation`` and ``bound`` are None without truth, ``recording`` where the iterations were not kept.
    """

    source: str
    seed: int | None
    observation: UplinkObservation
    result: EstimationResult
    seconds: float
    simulation: Simulation | None = None
    bound: HybridBound | None = None
    snr_db: float | None = None
    recording: SceneRecorder | None = None

    @property
    def truth(self) -> Truth | None:
        """What is behind a simulation."""
        return None if self.simulation is None else self.simulation.truth


def plain(value: Any) -> Any:
    """Return plain Python for strict JSON: arrays become lists, NaN and infinities None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def describe_block(source: str, seed: int | None, obs: UplinkObservation, snr_db: float | None) -> Report:
    """Return the sizes of the block."""
    pilots = int(np.count_nonzero(obs.known.all(axis=(0, 1))))
    return {
        "source": source,
        "seed": seed,
        "n_users": obs.n_users,
        "array_shape": list(obs.array.shape) if isinstance(obs.array, UniformPlanarArray) else None,
        "n_antennas": obs.array.n_elements,
        "n_subcarriers": obs.n_subcarriers,
        "n_pilot_symbols": pilots,
        "n_data_symbols": obs.n_symbols - pilots,
        "constellation_points": int(obs.constellation.size),
        "snr_db": snr_db,
    }


def _diffuse_energy_share(result: EstimationResult) -> float:
    """Share of the channel's energy that is in its diffuse part."""
    power = float(np.sum(np.mean(np.abs(result.channel) ** 2, axis=(1, 2))))
    return float(np.sum(result.diffuse_power)) / power if power > 0 else 0.0


def unlocated_energy_share(
    channel: NDArray[np.complex128], result: EstimationResult, obs: UplinkObservation
) -> float | None:
    """Return the share of a channel's energy (K, N, M) that the located scene does not explain.

    The residual of a least-squares fit per user by its line of sight and the scatterers that it sees
    (probability of at least one half) at the estimated positions and clock offsets. None without places.
    """
    if obs.geometry is None:
        return None
    bs, points, users = obs.geometry.bs_position_m, result.scatterer_positions_m, result.user_positions_m
    energy = float(np.sum(np.abs(channel) ** 2))
    if not (
        np.isfinite(energy) and energy > 0 and np.all(np.isfinite(users)) and np.all(np.isfinite(points))
    ):
        return None
    delays = np.column_stack([line_of_sight_delays_s(users, bs), bistatic_delays_s(users, points, bs)])
    present = np.column_stack([result.line_of_sight_probability, result.visibility_probability]) >= 0.5
    explained = 0.0
    for k, h in enumerate(channel):
        targets = np.vstack([users[k], points])[present[k]]
        delay = delays[k, present[k]] + result.time_offsets_s[k]
        b = delay_response(delay, obs.subcarrier_frequencies_hz)
        a = response_towards(targets, obs.array, bs, obs.wavefront, obs.carrier_hz)
        gram = (b.conj() @ b.T) * (a.conj() @ a.T)
        match = np.einsum("ln,nm,lm->l", b.conj(), h, a.conj(), optimize=True)
        gain = np.linalg.lstsq(gram, match, rcond=1e-10)[0]
        explained += float(np.real(np.vdot(gain, match)))
    return float(np.clip(1 - explained / energy, 0.0, 1.0))


def estimation_report(run: Run) -> Report:
    """Return everything that ``isac estimate`` reports, ready for JSON."""
    result = run.result
    report = describe_block(run.source, run.seed, run.observation, run.snr_db)
    report["estimator"] = {
        "name": result.estimator,
        "status": result.status,
        "converged": result.converged,
        "n_iter": result.n_iter,
        "seconds": run.seconds,
    }
    found, missed, localisation = _scatterers(run)
    report["scatterers"] = found
    report["missed_scatterers"] = missed
    report["users"] = [_user(run, k) for k in range(run.observation.n_users)]
    report["summary"] = _summary(run, localisation)
    report["paths"] = None if run.observation.geometry is not None else _paths(result)
    report["motion"] = motion_report(result, run.truth)
    report["elements"] = elements_report(result)
    report["misfit"] = _misfit(result)
    report["warnings"] = list(result.warnings)
    report["ambiguities"] = [
        {
            "kind": entry.kind,
            "index": entry.index,
            "alternatives": entry.alternatives,
            "weights": entry.weights,
            "text": entry.in_words(first=1),
        }
        for entry in result.ambiguities
    ]
    return plain(report)


def _misfit(result: EstimationResult) -> Report | None:
    """Return how far the residual is from noise, and what to do about it first; None if it was not judged."""
    if result.misfit is None:
        return None
    axes = {
        name: {
            "part": axis.part,
            "excess_db": axis.excess_db,
            "p_value": axis.p_value,
            "fails": axis.fails,
        }
        for name, axis in result.misfit.axes.items()
    }
    return {"axes": axes, "text": headline(result.misfit)}


def _paths(result: EstimationResult) -> list[Report]:
    """Return the paths of a block without places, user by user, the strongest first."""
    found = result.unlocated_paths
    order = np.lexsort((-np.abs(found.gain), found.user))
    return [
        {
            "user": found.user[p],
            "delay_s": found.delay_s[p],
            "direction_cosines": found.direction_cosines[p],
            "power_db": 20 * math.log10(abs(found.gain[p])) if abs(found.gain[p]) > 0 else None,
            "probability": found.probability[p],
        }
        for p in order
    ]


def _scatterers(run: Run) -> tuple[list[Report], list[Report], metrics.Localisation | None]:
    """Return the located scatterers, the missed ones, and the match with the truth."""
    result = run.result
    spread = np.sqrt(np.maximum(np.trace(result.scatterer_covariance_m2, axis1=1, axis2=2), 0.0))
    extent = np.zeros(len(spread))
    if len(result.scatterer_extent_m2):
        extent = np.sqrt(np.maximum(np.trace(result.scatterer_extent_m2, axis1=1, axis2=2), 0.0))
    found: list[Report] = [
        {
            "position_m": position,
            "probability": result.scatterer_probability[s],
            "position_std_m": spread[s],
            "extent_m": extent[s],
            "visibility_probability": result.visibility_probability[:, s],
        }
        for s, position in enumerate(result.scatterer_positions_m)
    ]
    if run.simulation is None or not np.all(np.isfinite(result.scatterer_positions_m)):
        return found, [], None
    truth = run.simulation.truth
    match = metrics.localisation(
        result.scatterer_positions_m, truth.scatterer_positions_m, max_distance_m=MATCH_DISTANCE_M
    )
    bound = None if run.bound is None else run.bound.position_rmse_m
    for entry in found:
        entry.update(truth_index=None, error_m=None, bound_m=None, visible=None)
    for s, q, distance in zip(match.estimate_index, match.truth_index, match.distances_m):
        found[s].update(truth_index=q, error_m=distance, visible=truth.visibility[:, q])
        found[s]["bound_m"] = None if bound is None else bound[q]
    missed = [
        {
            "position_m": position,
            "truth_index": q,
            "bound_m": None if bound is None else bound[q],
            "visible": truth.visibility[:, q],
        }
        for q, position in enumerate(truth.scatterer_positions_m)
        if q not in match.truth_index
    ]
    return found, missed, match


def _user(run: Run, k: int) -> Report:
    """Return one user's position, None where it is not known, clock, line of sight and data."""
    result, obs = run.result, run.observation
    entry: Report = {
        "position_m": None,
        "nominal_position_m": None,
        "position_std_m": None,
        "shift_m": None,
        "n_data": int(np.count_nonzero(~obs.known[k])),
        "time_offset_s": result.time_offsets_s[k],
        "time_offset_std_s": result.time_offset_std_s[k],
        "line_of_sight_probability": result.line_of_sight_probability[k],
    }
    nominal = np.zeros((0, 3)) if obs.user_positions_m is None else obs.user_positions_m
    if len(nominal):
        spread = max(float(np.trace(result.user_position_covariance_m2[k])), 0.0)
        entry.update(
            position_m=result.user_positions_m[k],
            nominal_position_m=nominal[k],
            position_std_m=math.sqrt(spread),
            shift_m=float(np.linalg.norm(result.user_positions_m[k] - nominal[k])),
        )
    if run.simulation is None:
        return entry
    truth = run.simulation.truth
    position, sent = truth.user_positions_m[k], truth.symbol_indices[k]
    data = sent >= 0
    entry.update(
        position_error_m=float(np.linalg.norm(result.user_positions_m[k] - position)),
        nominal_error_m=float(np.linalg.norm(nominal[k] - position)),
        position_bound_m=None if run.bound is None else run.bound.user_position_rmse_m[k],
        time_offset_error_s=float(result.time_offsets_s[k] - truth.time_offsets_s[k]),
        time_offset_bound_s=None if run.bound is None else run.bound.time_offset_rmse_s[k],
        line_of_sight=bool(truth.line_of_sight[k]),
        symbol_error_rate=float(np.mean(result.symbol_decision[k][data] != sent[data]))
        if data.any()
        else None,
    )
    return entry


def _summary(run: Run, match: metrics.Localisation | None) -> Report:
    """Return the figures of the whole block."""
    result = run.result
    energy = float(np.sum(np.abs(result.channel) ** 2))
    expected = float(np.sum(result.channel_variance)) / energy if energy > 0 else math.nan
    summary: Report = {
        "noise_variance": result.noise_variance,
        "expected_channel_nmse_db": 10 * math.log10(expected) if expected > 0 else None,
        "n_scatterers": len(result.scatterer_positions_m),
        "n_data": int(np.count_nonzero(~run.observation.known)),
        "n_unlocated_paths": len(result.unlocated_paths),
        "unlocated_energy_share": unlocated_energy_share(result.channel, result, run.observation),
        "diffuse_energy_share": _diffuse_energy_share(result),
    }
    if run.simulation is None:
        power = energy / max(result.channel.size, 1)
        summary["snr_db"] = (
            10 * math.log10(power / result.noise_variance) if power > 0 < result.noise_variance else None
        )
        return summary
    truth, finite = run.simulation.truth, bool(np.all(np.isfinite(result.channel)))
    hit_bound = None
    if match is not None and run.bound is not None and match.hits:
        hit_bound = float(np.sqrt(np.mean(run.bound.position_rmse_m[match.truth_index] ** 2)))
    summary.update(
        channel_nmse_db=metrics.channel_nmse_db(result.channel, truth.channel) if finite else None,
        channel_exact=bool(np.array_equal(result.channel, truth.channel)),
        channel_bound_db=None if run.bound is None else run.bound.channel_nmse_db,
        hits=None if match is None else match.hits,
        misses=None if match is None else match.misses,
        false_alarms=None if match is None else match.false_alarms,
        max_distance_m=MATCH_DISTANCE_M,
        position_rmse_m=None if match is None else match.rmse_m,
        position_bound_m=hit_bound,
        symbol_error_rate=metrics.symbol_error_rate(result, run.simulation),
        bit_error_rate=metrics.bit_error_rate(result, run.simulation),
        true_noise_variance=truth.noise_variance,
        true_n_unlocated_paths=len(truth.unlocated_paths),
        true_unlocated_energy_share=unlocated_energy_share(truth.channel, result, run.observation),
    )
    return summary


def bound_report(block: Report, simulation: Simulation, bound: HybridBound, known_data: bool) -> Report:
    """Return everything that ``isac bound`` reports, ready for JSON."""
    obs, truth = simulation.observation, simulation.truth
    position, stds = bound.position_rmse_m, obs.geometry_for("the bound").user_position_stds_m
    return plain(
        {
            **block,
            "known": "all symbols" if known_data else "pilots only",
            "scatterers": [
                {"position_m": p, "visible": truth.visibility[:, q], "bound_m": position[q]}
                for q, p in enumerate(truth.scatterer_positions_m)
            ],
            "users": [
                {
                    "position_m": truth.user_positions_m[k],
                    "position_prior_m": float(np.linalg.norm(stds[k])),
                    "position_bound_m": bound.user_position_rmse_m[k],
                    "time_offset_prior_s": obs.time_offset_stds_s[k],
                    "time_offset_bound_s": bound.time_offset_rmse_s[k],
                    "line_of_sight": truth.line_of_sight[k],
                }
                for k in range(obs.n_users)
            ],
            "summary": {
                "channel_bound_db": bound.channel_nmse_db,
                "position_bound_m": float(np.sqrt(np.mean(position**2))) if position.size else None,
                "n_unlocated_paths": len(truth.unlocated_paths),
                "unlisted_share": bound.unlisted_share,
            },
        }
    )
