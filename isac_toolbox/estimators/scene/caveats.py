"""What a result has to say of what an observation asks for and an estimator leaves out."""

from __future__ import annotations

from isac_toolbox.channel.array import AntennaArray, ArbitraryArray
from isac_toolbox.channel.hardware import HARDWARE_FIELDS
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["not_modelled", "taken_as_static", "unseen_cosines", "without_places"]

# Guard: power of a sidelobe of an array, relative to the main lobe, that noise may lift above it.
_ALIKE = 0.8
_COSINES = ("horizontal", "vertical")


def without_places(obs: UplinkObservation) -> tuple[str, ...]:
    """Return what a result has to say where nothing can be located."""
    if obs.geometry is not None:
        return ()
    missing = "user_positions_m" if obs.user_positions_m is None else "region_m"
    return (
        f"{missing}: none given, so that nothing is located and lines of sight stay undecided; paths have "
        "directions, and delays relative to the receiver's time base, up to one unambiguous interval",
    )


def taken_as_static(obs: UplinkObservation) -> tuple[str, ...]:
    """Return what a method that follows no motion and learns no array has to say where that is asked for."""
    said = []
    if obs.motion is not None:
        said.append(
            "symbol_times_s: the block moves or turns, but this estimator takes it as static, and its "
            "channel as one for all symbols; EMTurboBiSVBI follows motion"
        )
    if obs.hardware is not None:
        asked = [name for name in HARDWARE_FIELDS if getattr(obs, name) is not None]
        learned = [name for name in asked if name not in ("coupling_std", "noise_covariance")]
        if learned:
            said.append(
                f"{', '.join(learned)}: this estimator takes the array as ideal; EMTurboBiSVBI learns its "
                "elements, their images and how it stands"
            )
    return (*said, *not_modelled(obs))


def not_modelled(
    obs: UplinkObservation, takes_colour: bool = False, takes_coupling: bool = False
) -> tuple[str, ...]:
    """Return what is not taken into account of what an observation says of its receiver.

    ``takes_colour`` says that the shape of the noise is, ``takes_coupling`` that coupling is.
    """
    hardware = obs.hardware
    if hardware is None:
        return ()
    coloured = hardware.noise_covariance is not None or hardware.estimates_noise
    asked = [
        name
        for name, is_asked in (
            ("coupling_std", hardware.coupling_std > 0 and not takes_coupling),
            ("noise_covariance", coloured and not takes_colour),
        )
        if is_asked
    ]
    if not asked:
        return ()
    return (
        f"{', '.join(asked)}: not taken into account; correct the samples beforehand (whiten them over the "
        "array, undo the coupling), or trust stated errors less",
    )


def unseen_cosines(array: AntennaArray) -> tuple[str, ...]:
    """Return warnings that the array does not see some direction cosine, or takes one for another."""
    if isinstance(array, ArbitraryArray) and array.highest_sidelobe > _ALIKE:
        return (
            f"{array.description} hears directions far apart with {100 * array.highest_sidelobe:.0f} % of "
            "the power of one; paths may have one direction of several that look the same, and scatterers a "
            "place of several",
            *_unseen(array),
        )
    return _unseen(array)


def _unseen(array: AntennaArray) -> tuple[str, ...]:
    unseen = [name for name, sees in zip(_COSINES, array.sees_cosines, strict=True) if not sees]
    if not unseen:
        return ()
    form = "a cone around its axis" if len(unseen) == 1 else "a length without a direction"
    return (
        f"{array.description} does not see the {' and the '.join(unseen)} direction cosine: a "
        f"path is {form}; unlocated paths report 0 there, and a scatterer is given a place only where the "
        "region or several users leave no more than a resolution cell open",
    )
