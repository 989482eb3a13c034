"""
Angles from measured channels
=============================

Channel state information of commodity receivers has a phase and a delay of its own in every packet. They are
taken away by comparison with the mean; the antennas' fixed phases are learned from packets of a known
direction. Run it with your own logs of an Intel 5300, the first one measured straight ahead::

    python measured_angles.py 2m-0deg.dat 2m-45deg.dat 2m-60deg.dat

Without any it makes up packets of a three-element receiver.
"""

import sys

import numpy as np

import isac_toolbox as isac
from isac_toolbox.interop import csi

ARRAY = isac.UniformPlanarArray((3, 1))


def made_up(angle_deg: float) -> csi.CsiLog:
    """A direct path and an echo, element phases, and packets that are not synchronised."""
    rng = np.random.default_rng(int(angle_deg))
    frequencies_hz = np.arange(-58, 59, 4) * 312.5e3
    channel = 0
    for gain, delay_s, azimuth in ((1.0, 1e-8, np.radians(angle_deg)), (0.3j, 9e-8, -1.0)):
        response = ARRAY.steering([np.cos(azimuth), np.sin(azimuth), 0.0]) * np.exp([0j, 0.9j, -2.1j])
        channel = channel + gain * np.exp(-2j * np.pi * frequencies_hz * delay_s)[:, None] * response
    own = (
        rng.uniform(-np.pi, np.pi, (200, 1)) - 2 * np.pi * rng.uniform(-2e-7, 2e-7, (200, 1)) * frequencies_hz
    )
    noise = 0.1 * rng.standard_normal((200, *channel.shape, 2)) @ [1, 1j]
    return csi.CsiLog(np.exp(1j * own)[:, :, None] * channel + noise, frequencies_hz, np.arange(200) * 1e-3)


if len(sys.argv) > 1:
    logs = {path: csi.read_intel5300(path) for path in sys.argv[1:]}
else:
    logs = {f"made up, {angle} degrees": made_up(angle) for angle in (0, 15, 45, 60)}

# %%
# An agreement well below one says that the antennas' phases jump from packet to packet, as they do in some
# logs of this receiver at 2.4 GHz: then there is no direction to be had.
response = 1.0
for name, log in logs.items():
    packets = csi.align_packets(log.channel, log.subcarrier_frequencies_hz)
    if np.isscalar(response):
        response = csi.element_response(packets.mean, ARRAY, [1.0, 0.0, 0.0])
    channel = packets.mean / response
    azimuth, _ = csi.strongest_direction(channel, log.subcarrier_frequencies_hz, ARRAY)
    print(f"{name}: {np.degrees(azimuth):.1f} degrees, agreement of packets {packets.agreement:.2f}")
