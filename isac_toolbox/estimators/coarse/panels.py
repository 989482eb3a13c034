"""Phases of panels that nobody knows: a start from one panel alone (docs/theory.md, section 6.9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.panels import PanelArray
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.elements import ElementErrors
from isac_toolbox.inference.turbo import Deadline

__all__ = ["with_first_phases"]

# Guard: phases of panels, in radians, that a linearised step finds on its own.
_SMALL_RAD = 0.5


def with_first_phases(
    elements: ElementErrors,
    obs: UplinkObservation,
    block: ReceivedBlock,
    false_alarm_rate: float,
    deadline: Deadline,
) -> ElementErrors:
    """Return the elements with first phases of all panels, from what the largest hears alone.

    Its paths say what the others would hear with phases as stated. Nothing is done where phases are nearly
    known, or the block moves.
    """
    stds, array = obs.panel_phase_std_rad, obs.array
    if stds is None or np.max(stds) < _SMALL_RAD or obs.motion is not None:
        return elements
    assert isinstance(array, PanelArray)
    panel = array.panel_of_element
    usable = obs.usable_elements
    first = int(np.argmax(np.bincount(panel[usable], minlength=len(array.panels))))
    alone = replace(
        obs, element_mask=usable & (panel == first), panel_phase_std_rad=None, element_covariance=None
    )
    of_first = ReceivedBlock.of(alone, block.scale).with_response(elements.response)
    problem = Problem.on_pilots(alone, of_first)
    search = PathSearch.for_observation(alone).covering(problem.statistics.cross_correlation)
    _, fit = newtonised_omp(problem, search, false_alarm_rate=false_alarm_rate, deadline=deadline)
    channel = fit.atoms.synthesise(fit.posterior.mean, obs.n_users)
    heard = Problem.on_pilots(obs, block).statistics.cross_correlation
    matched = np.sum(channel.conj() * heard, axis=(0, 1))
    phases = np.array([np.angle(np.sum(matched[panel == p])) for p in range(len(array.panels))])
    return replace(elements, log_response=elements.log_response + 1j * _at_panels(phases, panel))


def _at_panels(phases: NDArray[np.float64], panel: NDArray[np.int64]) -> NDArray[np.float64]:
    """Phases of the panels at their elements, less the first one's."""
    relative = np.angle(np.exp(1j * (phases - phases[0])))
    return np.asarray(relative[panel])
