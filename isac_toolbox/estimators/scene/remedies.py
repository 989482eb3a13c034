"""What to say of a residual that is no noise: where it is, and what to switch on or to check.

docs/theory.md, section 7.9.
"""

from __future__ import annotations

from isac_toolbox.estimators.result import Misfit

__all__ = ["REMEDIES", "headline", "misfit_warnings"]

#: By axis and part: what is seen, and what helps.
REMEDIES: dict[tuple[str, str], tuple[str, str]] = {
    ("delay", "echoes"): (
        "echoes remain beyond the model",
        "allow for them with diffuse=True; if so already, try beam_squint=True or wavefront='spherical', "
        "and check subcarrier_frequencies_hz",
    ),
    ("direction", "colour"): (
        "the residual comes from preferred directions",
        "it may be an interferer, or noise that the antennas share: give noise_covariance='estimate', which "
        "EMTurboBiSVBI learns; if so already, more pilot symbols tell its shape better",
    ),
    ("time", "rotation"): (
        "users' signals rotate or change from symbol to symbol",
        "give symbol_times_s with frequency_offset_std_hz, user_velocity_std_m_s or phase_noise_std_rad, "
        "which EMTurboBiSVBI follows",
    ),
    ("time", "power"): (
        "the residual is louder in some symbols than in others",
        "look for bursts of interference and for clipping, and pass sample_mask",
    ),
    ("element", "response"): (
        "the elements respond differently",
        "give element_gain_std and element_phase_std_rad, which EMTurboBiSVBI learns, check the array's "
        "spacing and the order of its elements, and pass element_mask for dead ones",
    ),
    ("element", "power"): (
        "the residual is louder on some elements than on others",
        "give noise_covariance='estimate', which EMTurboBiSVBI learns, or pass element_mask",
    ),
}


def misfit_warnings(misfit: Misfit | None) -> list[str]:
    """Return what to say of the axis with the largest excess; others that fail, often with it, are named."""
    if misfit is None or not misfit.failing:
        return []
    first, *others = misfit.failing
    axis = misfit.axes[first]
    also = f" and, perhaps as a consequence, over {', '.join(others)}" if others else ""
    seen, helps = REMEDIES[first, axis.part]
    return [
        f"the model does not fit over {first}{also}: {seen}, {axis.excess_db:.1f} dB above noise; {helps}; "
        "the stated errors hold for a model that fits"
    ]


def headline(misfit: Misfit | None) -> str | None:
    """Return what does not fit and what helps in a few words, None where all fits."""
    if misfit is None or not misfit.failing:
        return None
    first = misfit.failing[0]
    axis = misfit.axes[first]
    return f"does not fit over {first} ({axis.excess_db:.1f} dB above noise): {REMEDIES[first, axis.part][1]}"
