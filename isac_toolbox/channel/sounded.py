"""Observations of channels that somebody else has estimated already."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from isac_toolbox._validation import as_array, check_shape
from isac_toolbox.channel.array import AntennaArray
from isac_toolbox.channel.modulation import qam_constellation
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["observation_from_channel"]


def observation_from_channel(
    channel: ArrayLike,
    noise_variance: float | None = None,
    *,
    array: AntennaArray,
    subcarrier_frequencies_hz: ArrayLike,
    **known: Any,
) -> UplinkObservation:
    """Return an observation of channel estimates: what a receiver hears of unit pilots, users one by one.

    For measured channel state information, sounding signals of open radio networks and channels of other
    programs: any estimator then finds their paths, or their scene where places are given. A clock offset and
    a phase that a user's estimate has of its own do no harm, as paths have free phases.

    Parameters
    ----------
    channel : array_like of complex, shape (K, N, M)
        Estimated channels of every user, subcarrier and antenna. Masked entries of a ``numpy.ma`` array are
        not used.
    noise_variance : float, optional
        Error variance of an entry; estimated if not given.
    array : UniformPlanarArray or ArbitraryArray
    subcarrier_frequencies_hz : array_like, shape (N,)
        Baseband frequencies, centred around zero, in any order and with any gaps.
    **known
        Further fields of an :class:`~isac_toolbox.channel.UplinkObservation`: places, ``time_offset_std_s``,
        ``carrier_hz``, ``wavefront`` and so on.

    Returns
    -------
    UplinkObservation
        With K symbols: user k sends one in symbol k and nothing in the others.

    Raises
    ------
    TypeError, ValueError
        For a wrong shape, fields that the channel stands for, and what an observation refuses.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
    >>> obs = isac.observation_from_channel(
    ...     sim.truth.channel,
    ...     1e-3,
    ...     array=sim.observation.array,
    ...     subcarrier_frequencies_hz=sim.observation.subcarrier_frequencies_hz,
    ... )
    >>> isac.metrics.channel_nmse_db(isac.NOMP().estimate(obs).channel, sim.truth.channel) < -40
    True
    """
    taken = sorted({"received", "pilots", "pilot_mask"} & set(known))
    if taken:
        raise TypeError(f"{', '.join(taken)} must not be given: channel stands for them")
    samples = channel if isinstance(channel, np.ma.MaskedArray) else as_array("channel", channel, complex)
    check_shape("channel", samples, (None, None, None), "(K, N, M)")
    n_users, n_sub, _ = samples.shape
    return UplinkObservation(
        received=samples.transpose(1, 2, 0),
        pilots=np.broadcast_to(np.eye(n_users)[:, None, :], (n_users, n_sub, n_users)),
        pilot_mask=np.ones((n_sub, n_users), bool),
        array=array,
        subcarrier_frequencies_hz=np.asarray(subcarrier_frequencies_hz),
        noise_variance=noise_variance,
        **{"constellation": qam_constellation("qpsk"), **known},
    )
