"""Texts that appear when the mouse rests on something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.plotting.html.view import State

if TYPE_CHECKING:
    from isac_toolbox.channel import UnlocatedPaths
    from isac_toolbox.estimators import EstimationResult
    from isac_toolbox.scenario import Truth

__all__ = ["angles", "position", "ray_text", "scatterer_text", "true_scatterer_text", "user_text"]

RealArray = NDArray[np.float64]
_MAX_LISTED_USERS = 8
_AXES = "xyz"


def position(point_m: RealArray) -> str:
    """Return coordinates with their unit."""
    return f"x {point_m[0]:.2f}, y {point_m[1]:.2f}, z {point_m[2]:.2f} m"


def angles(direction: RealArray) -> str:
    """Return azimuth and elevation of a unit vector."""
    azimuth = np.degrees(np.arctan2(direction[1], direction[0]))
    elevation = np.degrees(np.arcsin(np.clip(direction[2], -1.0, 1.0)))
    return f"azimuth {azimuth:.1f}°, elevation {elevation:.1f}°"


def _spread(covariance_m2: RealArray) -> str:
    """Return the standard deviation along the three axes."""
    std = np.sqrt(np.maximum(np.diagonal(covariance_m2), 0.0))
    return "std " + ", ".join(f"{axis} {s:.3f}" for axis, s in zip(_AXES, std)) + " m"


def scatterer_text(state: State, s: int) -> str:
    """Describe an estimated scatterer: probability, uncertainty, the users that see it, its error."""
    verdict, error = "", []
    if state.match is not None:
        hit = np.flatnonzero(state.match.estimate_index == s)
        verdict = ", found" if hit.size else ", false"
        if hit.size:
            true = state.match.truth_index[hit[0]] + 1
            error = [f"{state.match.distances_m[hit[0]]:.3f} m from true scatterer {true}"]
    lines = [f"<b>scatterer {s + 1}{verdict}</b>", position(state.points_m[s])]
    lines.append(f"probability {state.probability[s]:.3f}")
    if state.covariance_m2 is not None:
        lines.append(_spread(state.covariance_m2[s]))
    return "<br>".join([*lines, *_seen_by(state.visibility[:, s]), *error])


def _seen_by(probability: RealArray) -> list[str]:
    """Return a line per user with the probability of seeing the point; of many, those above one half."""
    users = list(range(len(probability)))
    if len(probability) > _MAX_LISTED_USERS:
        users = np.flatnonzero(probability >= 0.5).tolist()
    sees = [f"user {k + 1} {'sees it' if probability[k] >= 0.5 else 'does not'}" for k in users]
    return [f"{text}, p = {probability[k]:.3f}" for text, k in zip(sees, users)]


def true_scatterer_text(truth: Truth, q: int, state: State) -> str:
    """Describe a true scatterer: missed, or found as which one, and the users that see it."""
    assert state.match is not None
    hit = np.flatnonzero(state.match.truth_index == q)
    verdict = f"found as {state.match.estimate_index[hit[0]] + 1}" if hit.size else "missed"
    seen = ", ".join(str(k + 1) for k in np.flatnonzero(truth.visibility[:, q]))
    point = position(truth.scatterer_positions_m[q])
    return f"<b>true scatterer {q + 1}, {verdict}</b><br>{point}<br>seen by user {seen}"


def user_text(
    state: State, k: int, result: EstimationResult | None = None, truth: Truth | None = None
) -> str:
    """Describe an estimated user; clock and uncertainty come from the result, errors from the truth."""
    lines = [f"<b>user {k + 1}</b>", position(state.users_m[k])]
    if result is not None:
        lines.append(_spread(result.user_position_covariance_m2[k]))
        clock, std = 1e9 * result.time_offsets_s[k], 1e9 * result.time_offset_std_s[k]
        lines.append(f"clock offset {clock:.3f} ± {std:.3f} ns")
    lines.append(f"line of sight, p = {state.line_of_sight[k]:.3f}")
    lines.append(f"sees {int(np.sum(state.visibility[k] >= 0.5))} scatterers")
    if truth is not None:
        lines.append(f"{np.linalg.norm(state.users_m[k] - truth.user_positions_m[k]):.3f} m from the truth")
    return "<br>".join(lines)


def ray_text(paths: UnlocatedPaths, p: int, direction: RealArray) -> str:
    """Describe an unlocated path at the end of its ray."""
    gain = 20 * np.log10(max(abs(paths.gain[p]), 1e-300))
    return "<br>".join(
        [
            f"<b>unlocated path of user {paths.user[p] + 1}</b>",
            angles(direction),
            f"length {SPEED_OF_LIGHT_M_S * paths.delay_s[p]:.1f} m, gain {gain:.1f} dB",
            f"probability {paths.probability[p]:.3f}",
            "its last bounce lies on this ray",
        ]
    )
