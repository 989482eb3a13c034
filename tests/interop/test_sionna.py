"""The adapters to Sionna PHY, against Sionna PHY."""
# ruff: noqa: E402

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.interop import conventions

torch = pytest.importorskip("torch")
pytest.importorskip("sionna.phy")

from sionna.phy import config
from sionna.phy.channel import CIRDataset, cir_to_ofdm_channel, subcarrier_frequencies
from sionna.phy.channel.tr38901 import PanelArray
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
from sionna.phy.mapping import Constellation, Demapper, Mapper
from sionna.phy.mimo import StreamManagement
from sionna.phy.nr import PUSCHConfig, PUSCHReceiver, PUSCHTransmitter
from sionna.phy.ofdm import LinearDetector, LSChannelEstimator, ResourceGrid, ResourceGridMapper
from sionna.phy.utils import ebnodb2no

from isac_toolbox.interop.sionna import (
    SceneChannels,
    SionnaDecoder,
    SionnaEstimator,
    SionnaReceiver,
    observation_from_sionna,
)

CARRIER_HZ = 3.5e9
ARRAY = isac.UniformPlanarArray((2, 3), elevation_rad=-0.1)
ORDER = conventions.elements_from_top(ARRAY)


DC_NULL = {"dc_null": True, "num_guard_carriers": (3, 2)}


def make_grid(n_users=2, n_streams=1, size=48, **given):
    settings = {
        "num_ofdm_symbols": 6,
        "fft_size": size,
        "subcarrier_spacing": 30e3,
        "num_tx": n_users,
        "num_streams_per_tx": n_streams,
        "cyclic_prefix_length": 4,
        "num_guard_carriers": (3, 3),
        "pilot_pattern": "kronecker",
        "pilot_ofdm_symbol_indices": [1, 4],
    }
    config.seed = 7  # of the pilots
    return ResourceGrid(**settings | given)


def paths_channel(grid, seed=0, n_paths=3, delay_s=1e-6):
    """Channel (K, N, M) of a few paths in our element order, and the paths' directions."""
    rng = np.random.default_rng(seed)
    frequencies = (grid.effective_subcarrier_ind - grid.fft_size // 2) * grid.subcarrier_spacing
    channel = np.zeros((grid.num_tx, frequencies.size, ARRAY.n_elements), complex)
    for k in range(grid.num_tx):
        for _ in range(n_paths):
            gain = rng.standard_normal(2) @ (1, 1j)
            response = ARRAY.steering_from_cosines(*rng.uniform(-0.6, 0.6, 2))
            phase = np.exp(-2j * np.pi * frequencies * delay_s * rng.random())
            channel[k] += gain * phase[:, None] * response
    return channel


def send(grid, channel, no, n_bits=4, batch=2, seed=0, bits=None):
    """Blocks of Sionna's mapper through a channel (K, N, M) or (K, N, M, T) in our order.

    Returns y, bits and symbols on the grid.
    """
    config.seed = seed
    rng = np.random.default_rng(seed)
    if bits is None:
        shape = (batch, grid.num_tx, 1, grid.num_data_symbols * n_bits)
        bits = torch.as_tensor(rng.integers(0, 2, shape), dtype=torch.float32)
    x = ResourceGridMapper(grid)(Mapper("qam", n_bits)(bits))
    used = np.asarray(x)[:, :, 0][..., grid.effective_subcarrier_ind]
    if channel.ndim == 3:
        channel = np.repeat(channel[..., None], used.shape[2], axis=3)
    clean = np.einsum("knmt,bktn->bmtn", channel[:, :, ORDER], used)
    noise = rng.standard_normal((2, *clean.shape)) * np.sqrt(no / 2)
    y = np.zeros((batch, 1, *clean.shape[1:3], grid.fft_size), complex)
    y[:, 0][..., grid.effective_subcarrier_ind] = clean + noise[0] + 1j * noise[1]
    return torch.as_tensor(y, dtype=torch.complex64), bits, used


def street(n_users):
    """Places that say little: users tens of metres ahead, clocks to some 60 m."""
    return {
        "station_position_m": [0, 0, 10],
        "user_positions_m": [[40, 9 * k, 1] for k in range(n_users)],
        "user_position_std_m": 3.0,
        "time_offset_std_s": 2e-7,
        "region_m": [[10, -30, 0], [80, 30, 10]],
    }


def error_db(h_hat, channel):
    truth = conventions.channel_over_symbols(channel, h_hat.shape[5])[ORDER]
    error = np.asarray(h_hat)[:, 0, :, :, 0] - truth
    return 10 * np.log10(np.mean(np.abs(error) ** 2) / np.mean(np.abs(truth) ** 2))


# --- conventions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bits", [2, 4, 6, 8])
def test_labels_are_those_of_sionna(n_bits):
    np.testing.assert_allclose(
        conventions.nr_constellation(n_bits), np.asarray(Constellation("qam", n_bits)()), atol=1e-6
    )


def test_llr_sign_and_bit_order_are_those_of_sionna_bit_by_bit():
    """A known channel, one user, one antenna's worth of noise: Sionna's demapper gives every LLR."""
    grid = make_grid(n_users=1)
    channel, no = paths_channel(grid), 0.5
    y, bits, _ = send(grid, channel, no)
    points = Constellation("qam", 4)

    class Known:
        def estimate(self, obs):
            return isac.estimators.result_from_channel(obs, channel, no)

    llr = SionnaReceiver(grid, estimator=Known(), array=ARRAY, carrier_hz=CARRIER_HZ, constellation=points)(
        y, no
    )
    h = conventions.channel_over_symbols(channel, 6)[ORDER]  # (M, K, T, N)
    h_hat = torch.as_tensor(np.repeat(h[None, None, :, :, None], 2, axis=0), dtype=torch.complex64)
    detector = LinearDetector(
        "lmmse",
        "bit",
        "app",
        grid,
        StreamManagement(np.ones((1, 1)), 1),
        constellation_type="qam",
        num_bits_per_symbol=4,
    )
    expected = detector(y, h_hat, torch.zeros(1), torch.tensor(no))
    assert llr.shape == expected.shape == bits.shape
    np.testing.assert_allclose(np.asarray(llr), np.asarray(expected), atol=2e-3, rtol=2e-3)
    assert np.mean((np.asarray(llr) > 0) == np.asarray(bits)) > 0.95


def test_element_order_is_that_of_sionnas_panels():
    """Steering vectors from element positions of a panel, both polarisations, equal ours after the order."""
    panel = PanelArray(
        num_rows_per_panel=3,
        num_cols_per_panel=2,
        polarization="dual",
        polarization_type="VH",
        antenna_pattern="omni",
        carrier_frequency=CARRIER_HZ,
    )
    flat = isac.UniformPlanarArray((2, 3))
    direction = np.array([0.8, 0.36, 0.48])
    theirs = np.asarray(panel.ant_pos) @ direction * 2 * np.pi * CARRIER_HZ / isac.channel.SPEED_OF_LIGHT_M_S
    order = conventions.elements_from_top(flat, "dual")
    ours = np.tile(flat.steering(direction), 2)
    np.testing.assert_allclose(np.exp(1j * theirs)[order], ours, atol=1e-5)
    second = set(np.asarray(panel.ant_ind_pol2).tolist())
    assert second == set(range(6, 12))


def test_noise_at_an_ebno_is_that_of_sionna():
    grid = make_grid()
    known = np.asarray(grid.pilot_pattern.mask)[0, 0].T
    for ebno_db in (-3.0, 7.0):
        found = conventions.noise_variance_from_ebno(
            ebno_db, bits_per_symbol=4, code_rate=0.5, known=known, fft_size=48, cyclic_prefix=4
        )
        assert found == pytest.approx(float(ebnodb2no(ebno_db, 4, 0.5, grid)), rel=1e-5)


# --- estimator ---------------------------------------------------------------------------------------


def test_least_squares_through_the_adapter_is_sionnas():
    """One pilot symbol, so that both see the same samples; at pilots of the users, for both interpolators."""
    grid = make_grid(pilot_ofdm_symbol_indices=[2], **DC_NULL)
    no = 0.05
    y, _, _ = send(grid, paths_channel(grid), no)
    ours = SionnaEstimator(grid, estimator=isac.LeastSquares(), array=ARRAY, carrier_hz=CARRIER_HZ)
    h_hat, err_var = ours(y, torch.tensor(no))
    nearest, nearest_var = LSChannelEstimator(grid, interpolation_type="nn")(y, torch.tensor(no))
    linear, _ = LSChannelEstimator(grid, interpolation_type="lin")(y, torch.tensor(no))
    assert h_hat.shape == nearest.shape == err_var.shape and h_hat.dtype == nearest.dtype
    pilots, _ = conventions.pilots_on_grid(
        *(np.asarray(x)[:, 0] for x in (grid.pilot_pattern.mask, grid.pilot_pattern.pilots))
    )
    for k in range(2):
        sent = np.flatnonzero(pilots[k].any(axis=1))
        assert sent.size == 21
        for theirs in (nearest, linear):
            assert torch.max(torch.abs(h_hat - theirs)[:, :, :, k][..., sent]) < 1e-5
        inside = np.arange(sent[0], sent[-1] + 1)
        # with the DC nulled Sionna counts subcarriers, we measure frequencies
        evenly = inside[(inside < 17) | (inside > 23)]
        assert torch.max(torch.abs(h_hat - linear)[:, :, :, k][..., evenly]) < 1e-5
        assert err_var[:, :, :, k].mean() == pytest.approx(
            float(nearest_var[:, :, :, k][..., sent].mean()), rel=1e-4
        )


def test_least_squares_over_several_pilot_symbols_is_sionnas_mean_over_time():
    grid = make_grid()
    y, _, _ = send(grid, paths_channel(grid), 0.05)
    h_hat, _ = SionnaEstimator(grid, estimator=isac.LeastSquares(), array=ARRAY, carrier_hz=CARRIER_HZ)(
        y, 0.05
    )
    theirs, _ = LSChannelEstimator(grid, interpolation_type="lin_time_avg")(y, torch.tensor(0.05))
    assert torch.max(torch.abs(h_hat - theirs)[..., 1:-1]) < 1e-5


@pytest.mark.parametrize("estimator", [isac.NOMP(), isac.EMTurboBiSVBI()])
def test_the_array_path_gives_the_same(estimator):
    grid = make_grid(n_users=2)
    channel, no, points = paths_channel(grid), 0.05, conventions.nr_constellation(4)
    y, bits, _ = send(grid, channel, no, batch=1)
    adapter = SionnaEstimator(
        grid, estimator=estimator, array=ARRAY, carrier_hz=CARRIER_HZ, constellation=points
    )
    h_hat, err_var = adapter(y, torch.tensor([no]))
    samples = np.asarray(y, dtype=complex)[0, 0][..., grid.effective_subcarrier_ind]
    mask = np.asarray(grid.pilot_pattern.mask)[:, 0].astype(bool)
    pilots = np.zeros(mask.shape, complex)
    pilots[mask] = np.asarray(grid.pilot_pattern.pilots).ravel()
    obs = isac.UplinkObservation(
        received=samples[ORDER].transpose(2, 0, 1),
        pilots=pilots.transpose(0, 2, 1),
        pilot_mask=mask.transpose(0, 2, 1),
        array=ARRAY,
        subcarrier_frequencies_hz=(grid.effective_subcarrier_ind - 24) * 30e3,
        constellation=points,
        carrier_hz=CARRIER_HZ,
        noise_variance=no,
    )
    result = estimator.estimate(obs)
    truth = conventions.channel_over_symbols(result.channel, 6)[ORDER]
    assert np.max(np.abs(np.asarray(h_hat)[0, 0, :, :, 0] - truth)) < 1e-4
    assert float(err_var.mean()) == pytest.approx(result.channel_variance.mean(), rel=1e-5)
    llr = SionnaReceiver(grid, estimator=estimator, array=ARRAY, carrier_hz=CARRIER_HZ, constellation=points)(
        y, no
    )
    np.testing.assert_allclose(
        np.asarray(llr)[0, :, 0], conventions.llr_stream(result.llr, obs.known), rtol=1e-4, atol=1e-4
    )
    if isinstance(estimator, isac.EMTurboBiSVBI):
        assert error_db(h_hat, channel) < -25
        assert torch.equal(llr > 0, bits > 0)


@pytest.fixture(scope="module")
def turning():
    """A grid, the channel (K, N, M, T) of two users off the carrier, and a block of samples."""
    grid = make_grid()
    times_s = np.arange(6) * grid.ofdm_symbol_duration
    turned = np.exp(2j * np.pi * np.array([[900.0], [-600.0]]) * times_s)[:, None, None]
    channel = paths_channel(grid)[..., None] * turned
    return grid, channel, send(grid, channel, 0.02, batch=1)[0]


@pytest.mark.parametrize("points", [None, Constellation("qam", 4)])
def test_a_block_that_turns_has_a_channel_for_every_symbol(turning, points):
    grid, channel, y = turning
    found = {}
    for prior in ({}, {"frequency_offset_std_hz": 800.0}):
        estimator = SionnaEstimator(
            grid,
            estimator=isac.EMTurboBiSVBI(),
            array=ARRAY,
            carrier_hz=CARRIER_HZ,
            constellation=points,
            **prior,
        )
        h_hat, err_var = estimator(y, 0.02)
        assert h_hat.shape == err_var.shape == (1, 1, 6, 2, 1, 6, 42)
        found[bool(prior)] = error_db(h_hat, channel)
    assert found[True] < -22 and found[True] < found[False] - 12


def test_two_polarisations_that_turn_are_not_detected_together(turning):
    grid, _, y = turning
    receiver = SionnaReceiver(
        grid,
        estimator=isac.LeastSquares(),
        array=ARRAY,
        carrier_hz=CARRIER_HZ,
        constellation=Constellation("qam", 4),
        user_velocity_std_m_s=3.0,
    )
    with pytest.raises(ValueError, match="one polarisation where something may turn"):
        receiver(torch.cat([y, y], dim=2), 0.02)
    with pytest.raises(TypeError, match=r"^velocity must be one of station_position_m, "):
        SionnaEstimator(grid, estimator=isac.LeastSquares(), array=ARRAY, carrier_hz=CARRIER_HZ, velocity=3.0)


def test_without_a_constellation_pilots_alone_are_used():
    grid = make_grid()
    y, _, _ = send(grid, paths_channel(grid), 0.05)
    obs = observation_from_sionna(y, 0.05, grid, array=ARRAY, carrier_hz=CARRIER_HZ, block=1)
    assert obs.n_symbols == 2 and obs.known.all() and obs.noise_variance == pytest.approx(0.05)
    whole = observation_from_sionna(
        y, 0.0, grid, array=ARRAY, carrier_hz=CARRIER_HZ, constellation=Constellation("qam", 4), block=1
    )
    assert whole.n_symbols == 6 and whole.noise_variance is None
    np.testing.assert_allclose(obs.received, whole.received[:, :, [1, 4]])


def test_places_are_handed_on():
    grid = make_grid()
    y, _, _ = send(grid, paths_channel(grid), 0.05)
    obs = observation_from_sionna(
        y,
        0.05,
        grid,
        array=ARRAY,
        carrier_hz=CARRIER_HZ,
        **street(2),
    )
    assert obs.geometry is not None and obs.geometry.region_m[1, 0] == 80


def test_noise_per_antenna_counts_by_its_mean():
    grid = make_grid()
    y, _, _ = send(grid, paths_channel(grid), 0.05)
    no = torch.linspace(0.01, 0.09, 6).expand(2, 1, 6)
    obs = observation_from_sionna(y, no, grid, array=ARRAY, carrier_hz=CARRIER_HZ)
    assert obs.noise_variance == pytest.approx(0.05)


def test_two_polarisations_are_estimated_apart_and_detected_together():
    grid = make_grid()
    first, second, points = paths_channel(grid), paths_channel(grid, seed=5), Constellation("qam", 4)
    y = [send(grid, channel, 1.0, seed=3)[0] for channel in (first, second)]
    bits = send(grid, first, 1.0, seed=3)[1]
    both = torch.cat(y, dim=2)
    settings = {
        "estimator": isac.EMTurboBiSVBI(),
        "array": ARRAY,
        "carrier_hz": CARRIER_HZ,
        "constellation": points,
    }
    h_hat, _ = SionnaEstimator(grid, **settings)(both, 1.0)
    alone, _ = SionnaEstimator(grid, **settings)(y[1], 1.0)
    np.testing.assert_allclose(np.asarray(h_hat)[:, :, 6:], np.asarray(alone), atol=1e-6)
    wrong = [
        torch.mean(((SionnaReceiver(grid, **settings)(x, 1.0) > 0) != (bits > 0)).float()) for x in (*y, both)
    ]
    assert wrong[2] < 0.7 * min(wrong[:2])


# --- PUSCH -------------------------------------------------------------------------------------------


def pusch(config_type=1, ports=(0, 1), groups=2, length=1):
    configs = []
    for port in ports:
        c = PUSCHConfig()
        c.carrier.subcarrier_spacing = 30
        c.carrier.n_size_grid = 8
        c.num_antenna_ports = c.num_layers = 1
        c.dmrs.config_type = config_type
        c.dmrs.length = length
        c.dmrs.additional_position = 0 if length == 2 else 1
        c.dmrs.num_cdm_groups_without_data = groups
        c.dmrs.dmrs_port_set = [port]
        c.tb.mcs_index, c.tb.mcs_table = 10, 1
        configs.append(c)
    return PUSCHTransmitter(configs, return_bits=True)


@pytest.mark.parametrize(
    ("config_type", "ports", "groups", "length"),
    [(1, (0, 2), 2, 1), (1, (0, 1), 2, 1), (2, (0, 2, 4), 3, 1), (1, (0, 1, 4), 2, 2), (1, (0,), 1, 1)],
)
def test_pusch_blocks_are_decoded(config_type, ports, groups, length):
    """Users apart by comb, by code over frequency, by code over time; data beside the pilots."""
    transmitter = pusch(config_type, ports, groups, length)
    grid = transmitter.resource_grid
    config.seed = 1
    x, bits = transmitter(1)
    channel, no = paths_channel(grid, n_paths=2, delay_s=4e-7), 0.02
    rng = np.random.default_rng(0)
    sent = np.asarray(x)[:, :, 0][..., grid.effective_subcarrier_ind]
    clean = np.einsum("knm,bktn->bmtn", channel[:, :, ORDER], sent)
    noise = rng.standard_normal((2, *clean.shape)) * np.sqrt(no / 2)
    y = torch.as_tensor((clean + noise[0] + 1j * noise[1])[:, None], dtype=torch.complex64)
    estimator = SionnaEstimator(grid, estimator=isac.EMTurboBiSVBI(), array=ARRAY, carrier_hz=CARRIER_HZ)
    assert error_db(estimator(y, no)[0], channel) < -22
    decoded = PUSCHReceiver(transmitter, channel_estimator=estimator)(y, torch.tensor(no))
    assert torch.equal(decoded, bits)


# --- scenes as channels ------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"n_clusters": 2}, {"wavefront": "spherical"}])
def test_scenes_are_channels_of_sionna(changes):
    scenario = isac.Scenario.load("urban_uplink").replace(array_shape=(2, 3), **changes)
    scenes = SceneChannels(scenario, n_paths=80, n_symbols=2, seed=4, count=1)
    a, tau = CIRDataset(scenes, 1, **scenes.sizes)()
    sim = scenario.simulate(4)
    frequencies = torch.tensor(sim.observation.subcarrier_frequencies_hz, dtype=torch.float32)
    h = np.asarray(cir_to_ofdm_channel(frequencies, a, tau))  # [1, 1, M, K, 1, T, N]
    order = conventions.elements_from_top(sim.observation.array)
    truth = conventions.channel_over_symbols(sim.truth.channel, 2)[order]
    np.testing.assert_allclose(h[0, 0, :, :, 0], truth, atol=2e-3)


@pytest.mark.parametrize("changes", [{}, DC_NULL])
def test_frequencies_of_a_grid_are_those_of_its_channels(changes):
    grid = make_grid(**changes)
    y, _, _ = send(grid, paths_channel(grid), 0.05)
    obs = observation_from_sionna(y, 0.05, grid, array=ARRAY, carrier_hz=CARRIER_HZ)
    theirs = np.asarray(subcarrier_frequencies(48, 30e3))[grid.effective_subcarrier_ind]
    np.testing.assert_allclose(obs.subcarrier_frequencies_hz, theirs)


# --- bad input ---------------------------------------------------------------------------------------


def estimate(grid=None, y=None, no=0.1, **given):
    grid = make_grid() if grid is None else grid
    settings = {"estimator": isac.LeastSquares(), "array": ARRAY, "carrier_hz": CARRIER_HZ}
    y = torch.ones((1, 1, 6, 6, 48), dtype=torch.complex64) if y is None else y
    return SionnaEstimator(grid, **settings | given)(y, no)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: estimate(make_grid(n_users=1, n_streams=2)),
            "one stream a user, got num_streams_per_tx = 2",
        ),
        (
            lambda: estimate([make_grid(), make_grid()]),
            "one grid that all users share, got 2 grids; .* numerologies",
        ),
        (lambda: estimate("grid"), "resource_grid must be a Sionna ResourceGrid, got str"),
        (lambda: estimate(y=torch.ones((1, 1, 6, 6, 64))), r"y must have the shape of its resource_grid"),
        (lambda: estimate(y=torch.ones((1, 2, 6, 6, 48))), "one receiver with one array.* got 2 receivers"),
        (lambda: estimate(y=torch.ones((1, 1, 8, 6, 48))), "one array of one or two polarisations.* got 8"),
        (lambda: estimate(no=-1.0), "no must hold variances"),
        (lambda: estimate(estimator=3), "estimator must be an estimator, got int"),
        (lambda: estimate(array="panel"), "array must be a UniformPlanarArray or an ArbitraryArray, got str"),
        (lambda: estimate(carrier_hz=0.0), "carrier_hz must be a positive number"),
        (lambda: estimate(region_m=[[0, 0, 0], [1, 1, 1]]), "user_positions_m must be given with region_m"),
        (lambda: estimate(constellation=np.ones((2, 2))), "constellation must have shape"),
        (
            lambda: SionnaReceiver(
                make_grid(), estimator=isac.NOMP(), array=ARRAY, carrier_hz=CARRIER_HZ, constellation=None
            ),
            "constellation must hold the data alphabet",
        ),
        (
            lambda: observation_from_sionna(
                torch.ones((1, 1, 6, 6, 48)), 0.1, make_grid(), array=ARRAY, carrier_hz=CARRIER_HZ, block=1
            ),
            r"block must lie in 0\.\.0, got 1",
        ),
        (
            lambda: observation_from_sionna(
                torch.ones((1, 1, 6, 6, 48)),
                0.1,
                make_grid(),
                array=ARRAY,
                carrier_hz=CARRIER_HZ,
                polarisation=1,
            ),
            r"polarisation must lie in 0\.\.0, got 1",
        ),
        (lambda: SceneChannels("urban_uplink"), "scenario must be a Scenario, got str"),
        (
            lambda: SceneChannels(isac.Scenario.load("urban_uplink").replace(diffuse_power_db=-10.0)),
            "scenario must have diffuse_power_db = None",
        ),
        (
            lambda: next(SceneChannels(isac.Scenario.load("urban_uplink"), n_paths=2)()),
            "n_paths must be at least",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_demapper_of_sionna_reads_our_constellation():
    """Hard decisions of Sionna's demapper on noiseless points return the labels."""
    points = torch.as_tensor(conventions.nr_constellation(4), dtype=torch.complex64)
    llr = Demapper("app", "qam", 4)(points, torch.tensor(0.1))
    np.testing.assert_array_equal(np.asarray(llr).reshape(16, 4) > 0, isac.channel.bit_labels(16))


# --- a decoder in the loop ---------------------------------------------------------------------------


def test_an_ldpc_decoder_of_sionna_says_extrinsic_llrs():
    """At few errors all code bits come back with the sign that was sent, and less what went in."""
    grid = make_grid(n_users=2)
    n_bits = grid.num_data_symbols * 4
    encoder = LDPC5GEncoder(n_bits // 4, n_bits // 2)
    loop = SionnaDecoder(
        LDPC5GDecoder(encoder, hard_out=False, return_infobits=False, num_iter=20), grid, n_bits // 2
    )
    rng = np.random.default_rng(0)
    information = torch.as_tensor(rng.integers(0, 2, (2, 2, n_bits // 4)), dtype=torch.float32)
    coded = np.asarray(encoder(information)).reshape(2, -1)
    known = np.asarray(grid.pilot_pattern.mask)[:, 0].transpose(0, 2, 1).astype(bool)
    heard = conventions.llr_on_grid((2 * coded - 1) * 4 + 2 * rng.standard_normal(coded.shape), known)
    said = conventions.llr_stream(loop(heard), known)
    assert np.all((said > 0) == coded) and np.all(loop(heard)[known] == 0)
    with pytest.raises(ValueError, match="n_code_bits must divide"):
        SionnaDecoder(LDPC5GDecoder(encoder), grid, 7 * 11)(heard)


def test_the_code_helps_channel_and_bits_of_a_noisy_block():
    grid = make_grid(n_users=2, num_ofdm_symbols=10)
    n_bits = grid.num_data_symbols * 4
    encoder = LDPC5GEncoder(n_bits // 2, n_bits)
    channel, no = paths_channel(grid), 1.2
    rng = np.random.default_rng(1)
    information = torch.as_tensor(rng.integers(0, 2, (1, 2, 1, n_bits // 2)), dtype=torch.float32)
    y, _, _ = send(grid, channel, no, batch=1, bits=encoder(information))
    settings = {"array": ARRAY, "carrier_hz": CARRIER_HZ, "constellation": Constellation("qam", 4)}
    loop = SionnaDecoder(LDPC5GDecoder(encoder, hard_out=False, return_infobits=False), grid, n_bits)
    wrong, nmse_db = [], []
    for decoder in (None, loop):
        kept = isac.EMTurboBiSVBI(decoder=decoder)
        llr = SionnaReceiver(grid, estimator=kept, **settings)(y, no)
        decoded = LDPC5GDecoder(encoder)(llr)
        wrong.append(float(torch.mean((decoded != information).float())))
        nmse_db.append(error_db(SionnaEstimator(grid, estimator=kept, **settings)(y, no)[0], channel))
    assert wrong[1] < 0.5 * wrong[0] and nmse_db[1] < nmse_db[0] - 1
