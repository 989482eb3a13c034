"""Beam squint that nobody asked for: whether a scene explains the samples better with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.refine import refine

__all__ = ["SQUINT_NATS", "shows_squint"]

# Guard: nats by which beam squint must explain the samples better.
SQUINT_NATS = 30.0
# Cost cap: steps of the scene with squint, and of that without it where the former is better.
_STEPS = 3
# Cost cap: nats by which squint may explain the samples worse before the scene moves.
_HOPELESS_NATS = 100.0
# Guard: phase at the array's corner and the band's edge below which squint is none.
_LEAST_SQUINT_RAD = 0.02


def shows_squint(fit: Fit) -> bool:
    """Return whether beam squint explains what a fit without it explains, and better.

    Asked only where paths remain unlocated, as those that squint breeds are, and where array, band and
    carrier make it large enough to be seen.
    """
    problem, receiver = fit.problem, fit.problem.receiver
    if receiver.beam_squint or receiver.wavefront != "planar" or not np.any(fit.paths.is_unlocated):
        return False
    if _largest_squint_rad(receiver) <= _LEAST_SQUINT_RAD:
        return False
    data = Measurements(problem.statistics, replace(receiver, beam_squint=True))
    start = evaluate(replace(problem, data=data), fit.scene, fit.paths, fit.posterior.prior_precision)
    if start.objective > fit.objective + _HOPELESS_NATS:
        return False
    goal = fit.objective - SQUINT_NATS
    squinted = refine(start, n_steps=_STEPS, goal=goal).objective
    if squinted >= goal:
        return False
    return squinted < refine(fit, n_steps=_STEPS).objective - SQUINT_NATS


def _largest_squint_rad(receiver: Receiver) -> float:
    """Phase that beam squint adds at most, at a corner of the array and an edge of the band."""
    if receiver.carrier_hz is None or not isinstance(receiver.array, UniformPlanarArray):
        return 0.0
    relative = float(np.max(np.abs(receiver.frequencies_hz))) / receiver.carrier_hz
    return relative * sum(float(slopes.max()) for slopes in receiver.array.phase_slopes)
