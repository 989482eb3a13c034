"""Environments from Sionna RT: a stand-in with its documented shapes, and Sionna RT itself where it runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.rays import CARRIER_HZ, STATION_M, USERS_M, rays
from isac_toolbox.channel.geometry import delay_response
from isac_toolbox.channel.model import multi_user_channel
from isac_toolbox.interop.sionna_rt import from_paths

ARRAY = isac.UniformPlanarArray((4, 2), elevation_rad=-0.1)
FREQUENCIES_HZ = (np.arange(24) - 11.5) * 1e6
SCENE = SimpleNamespace(frequency=np.array([CARRIER_HZ], np.float32))


@dataclass
class Paths:
    """What ``sionna.rt.Paths`` of 2.2 documents, in single precision, one antenna a device."""

    a: tuple[np.ndarray, np.ndarray]
    tau: np.ndarray
    valid: np.ndarray
    interactions: np.ndarray
    vertices: np.ndarray
    sources: np.ndarray
    targets: np.ndarray


def stand_in(station="receiver", synthetic=True, max_depth=2, n_padded=7) -> Paths:
    """Paths of the street; invalid ones, with a delay of -1, fill up."""
    n_users = len(USERS_M)
    shape = (1, n_users, n_padded) if station == "receiver" else (n_users, 1, n_padded)
    gain, tau = np.zeros(shape, complex), np.full(shape, -1.0)
    valid = np.zeros(shape, bool)
    interactions, vertices = np.zeros((max_depth, *shape), np.uint32), np.zeros((max_depth, *shape, 3))
    for k, user_m in enumerate(USERS_M):
        for number, ray in enumerate(r for r in rays(user_m) if len(r.points_m) <= max_depth):
            at = (
                (0, k, number + 1) if station == "receiver" else (k, 0, number + 1)
            )  # the first one is invalid
            points = ray.points_m[::-1] if station == "receiver" else ray.points_m
            gain[at], tau[at], valid[at] = ray.passband, ray.length_m / 299_792_458.0, True
            interactions[(slice(len(points)), *at)] = 1
            vertices[(slice(len(points)), *at)] = points
    if not synthetic:
        tau, valid = tau[:, None, :, None], valid[:, None, :, None]
        interactions, vertices = interactions[:, :, None, :, None], vertices[:, :, None, :, None]
    a = gain[:, None, :, None]
    users, one = USERS_M.T.astype(np.float32), STATION_M[:, None].astype(np.float32)
    return Paths(
        a=(a.real.astype(np.float32), a.imag.astype(np.float32)),
        tau=tau.astype(np.float32),
        valid=valid,
        interactions=interactions,
        vertices=vertices.astype(np.float32),
        sources=users if station == "receiver" else one,
        targets=one if station == "receiver" else users,
    )


def true_channel():
    """Channel (K, N, M) of the street's rays, summed by hand."""
    channel = np.zeros((len(USERS_M), FREQUENCIES_HZ.size, ARRAY.n_elements), complex)
    for k, user_m in enumerate(USERS_M):
        for ray in rays(user_m):
            towards = (ray.points_m[0] if len(ray.points_m) else user_m) - STATION_M
            response = ARRAY.steering(towards / np.linalg.norm(towards))
            over_band = delay_response(ray.length_m / 299_792_458.0, FREQUENCIES_HZ)
            channel[k] += ray.gain * over_band[:, None] * response
    return channel


@pytest.mark.parametrize("station", ["receiver", "transmitter"])
@pytest.mark.parametrize("synthetic", [True, False])
def test_the_environment_has_the_channel_of_its_rays(station, synthetic):
    """To the single precision of the bounce points."""
    environment = from_paths(stand_in(station, synthetic), SCENE)
    assert_allclose(environment.bs_position_m, STATION_M)
    assert environment.scatterer_positions_m.shape == (9, 3)
    assert np.count_nonzero(environment.line_of_sight_gain) == len(environment.extra_user) == 3
    channel = multi_user_channel(environment, ARRAY, FREQUENCIES_HZ, np.zeros(3))
    truth = true_channel()
    assert isac.metrics.channel_nmse_db(channel, truth) < -50


def test_delays_are_absolute():
    environment = from_paths(stand_in(), SCENE)
    lengths = [ray.length_m for user_m in USERS_M for ray in rays(user_m) if len(ray.points_m) == 2]
    assert_allclose(environment.extra_delay_s * 299_792_458.0, lengths, atol=1e-4)


def test_without_bounces_there_are_lines_of_sight_alone():
    environment = from_paths(stand_in(max_depth=0), SCENE)
    assert len(environment.scatterer_positions_m) == len(environment.extra_user) == 0
    assert np.all(environment.line_of_sight_gain != 0)


def test_a_scenario_hears_it():
    scenario = isac.Scenario.load("urban_uplink").replace(n_users=3, snr_db=20)
    sim = scenario.simulate(0, environment=from_paths(stand_in(), SCENE))
    assert sim.truth.scatterer_positions_m.shape == (9, 3)


@pytest.mark.parametrize(
    ("changes", "given", "error", "message"),
    [
        ({"a": (np.zeros((1, 4, 3, 1, 7)),) * 2}, {}, ValueError, "one antenna at every device"),
        (
            {},
            {"station": "transmitter"},
            ValueError,
            "one base station.* got 1 receivers and 3 transmitters with",
        ),
        ({}, {"station": "middle"}, ValueError, "station must be one of"),
        ({"sources": np.zeros((3, 2))}, {}, ValueError, r"as many places as devices \(3\), got 2"),
    ],
)
def test_bad_input_is_named(changes, given, error, message):
    with pytest.raises(error, match=message):
        from_paths(replace(stand_in(), **changes), SCENE, **given)


def test_objects_that_are_no_paths_are_named():
    with pytest.raises(TypeError, match="paths must be Paths of Sionna RT, got SimpleNamespace without"):
        from_paths(SimpleNamespace(a=1), SCENE)
    with pytest.raises(TypeError, match="scene must be a Scene of Sionna RT, got str"):
        from_paths(stand_in(), "munich")


REAL = """
import numpy as np, sionna.rt as rt, isac_toolbox as isac
from isac_toolbox.interop.sionna_rt import from_paths
scene = rt.load_scene(rt.scene.simple_street_canyon)
scene.frequency = 3.5e9
scene.tx_array = scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
scene.add(rt.Receiver("station", [-30, 0, 15]))
for k, y in enumerate((-3.0, 4.0)):
    scene.add(rt.Transmitter(f"user{k}", [25.0, y, 1.5]))
paths = rt.PathSolver()(scene, max_depth=2, refraction=False)
environment = from_paths(paths, scene)
frequencies = np.linspace(-5e6, 5e6, 8)
theirs = paths.cfr(frequencies=frequencies, normalize_delays=False, out_type="numpy")[0, 0, :, 0, 0]
one = isac.UniformPlanarArray((1, 1))
ours = isac.channel.model.multi_user_channel(environment, one, frequencies, np.zeros(2))[..., 0]
print("NMSE", isac.metrics.channel_nmse_db(ours, theirs))
"""


def test_sionna_rt_itself():
    """In a process of its own: with an older LLVM than it asks for it aborts."""
    if find_spec("sionna") is None or find_spec("mitsuba") is None:
        pytest.skip("sionna-rt is not installed")
    probe = [sys.executable, "-c", "import sionna.rt as rt; rt.load_scene(rt.scene.simple_street_canyon)"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"sionna-rt does not run here: {(done.stderr or str(done.returncode))[-200:]}")
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < -25
