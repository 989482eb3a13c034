"""What blocks cost that the model does not fit, as ratios to a fitting block of their size in the same run.

    python benchmarks/speed/misfit.py [--seed 0] [--repeats 3] [--without-unlocated]

Blocks of urban_uplink at 20 dB, one thread, kernels warm, processor time, best of the repeats. The channel
error is against the effective channel, with the gains or the tail that the model does not know, where there
is any: a dead element or subcarrier is predicted as if it were alive.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from tables import best_seconds, parser_of, print_table

import isac_toolbox as isac

SNR_DB = 20.0
ELEMENT, SUBCARRIER = 20, 20
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class Case:
    """A block, the channel (K, N, M) that it went through, and a fitting block of its size."""

    observation: isac.UplinkObservation
    channel: ComplexArray
    fitting: isac.UplinkObservation


def clean(seed: int, **changes: object) -> isac.Simulation:
    """A block that the model fits."""
    return isac.Scenario.load("urban_uplink").replace(snr_db=SNR_DB, **changes).simulate(seed=seed)


def noise(simulation: isac.Simulation, shape: tuple[int, ...], seed: int) -> ComplexArray:
    """Receiver noise of a simulation's level."""
    rng = np.random.default_rng([seed, 1])
    parts = rng.standard_normal((2, *shape)) * np.sqrt(simulation.truth.noise_variance / 2)
    return parts[0] + 1j * parts[1]


def received_through(
    simulation: isac.Simulation, channel: ComplexArray, symbols: ComplexArray, seed: int
) -> Case:
    """The block that such symbols (K, N, T) over such a channel (K, N, M) make."""
    samples = np.matmul(channel.transpose(1, 2, 0), symbols.transpose(1, 0, 2))
    samples = samples + noise(simulation, samples.shape, seed)
    observation = replace(simulation.observation, received=samples)
    return Case(observation, channel, simulation.observation)


def scaled_elements(seed: int, factors: Callable[[np.random.Generator, int], ComplexArray]) -> Case:
    """Complex factors on the antennas."""
    simulation = clean(seed)
    truth = simulation.truth
    drawn = factors(np.random.default_rng([seed, 2]), truth.channel.shape[2])
    return received_through(simulation, truth.channel * drawn, truth.symbols, seed)


def dead_element(seed: int) -> Case:
    """One antenna hears nothing but noise."""
    return scaled_elements(seed, lambda _, m: np.arange(m) != ELEMENT)


def dead_subcarrier(seed: int) -> Case:
    """One subcarrier, its pilots announced, carries nothing."""
    simulation = clean(seed)
    channel = simulation.truth.channel.copy()
    channel[:, SUBCARRIER] = 0
    return received_through(simulation, channel, simulation.truth.symbols, seed)


def element_phases(seed: int, std_rad: float) -> Case:
    """Phases of the antennas that nobody calibrated."""
    return scaled_elements(seed, lambda rng, m: np.exp(1j * std_rad * rng.standard_normal(m)))


def element_gains(seed: int, std: float) -> Case:
    """Gains of the antennas that nobody calibrated."""
    return scaled_elements(seed, lambda rng, m: 1 + std * rng.standard_normal(m))


def transmit_image(seed: int, level_db: float) -> Case:
    """Every user also sends the mirror image of its own symbols."""
    simulation = clean(seed)
    symbols = simulation.truth.symbols
    image = 10 ** (level_db / 20) * symbols[:, ::-1].conj()
    return received_through(simulation, simulation.truth.channel, symbols + image, seed)


def over_time(spectra: ComplexArray) -> ComplexArray:
    """Samples over time of spectra, along the second last axis."""
    return np.fft.ifft(np.fft.ifftshift(spectra, axes=-2), axis=-2, norm="ortho")


def over_frequency(samples: ComplexArray) -> ComplexArray:
    """The inverse."""
    return np.fft.fftshift(np.fft.fft(samples, axis=-2, norm="ortho"), axes=-2)


def clipped(seed: int, share: float) -> Case:
    """A receiver that clips this share of its samples."""
    simulation = clean(seed)
    samples = over_time(simulation.observation.received.transpose(1, 0, 2))
    amplitude = np.maximum(np.abs(samples), 1e-300)
    cut = samples * np.minimum(np.quantile(amplitude, 1 - share) / amplitude, 1)
    observation = replace(simulation.observation, received=over_frequency(cut).transpose(1, 0, 2))
    return Case(observation, simulation.truth.channel, simulation.observation)


def saturated(seed: int, back_off_db: float) -> Case:
    """Users' amplifiers that limit softly (Rapp, smoothness one) so far above the mean power."""
    simulation = clean(seed)
    symbols = simulation.truth.symbols
    samples = over_time(symbols)
    limit = 10 ** (back_off_db / 10) * np.mean(np.abs(symbols) ** 2)
    sent = over_frequency(samples / np.sqrt(1 + np.abs(samples) ** 2 / limit))
    gain = np.vdot(symbols, sent) / np.vdot(symbols, symbols)  # what stays linear belongs to the channel
    case = received_through(simulation, simulation.truth.channel, sent, seed)
    return replace(case, channel=gain * case.channel)


def diffuse_tail(seed: int, level_db: float, decay_s: float = 50e-9) -> Case:
    """Scattering of exponential delay profile behind the line of sight, white over the array."""
    simulation = clean(seed)
    truth, frequencies = simulation.truth, simulation.observation.subcarrier_frequencies_hz
    rng = np.random.default_rng([seed, 3])
    n_users, _, n_elements = truth.channel.shape
    delays = np.arange(0, 8 * decay_s, 1 / np.ptp(frequencies))
    taps = rng.standard_normal((2, n_users, delays.size, n_elements))
    taps = (taps[0] + 1j * taps[1]) * np.exp(-delays / decay_s / 2)[:, None]
    direct = np.linalg.norm(truth.user_positions_m - simulation.observation.bs_position_m, axis=1)
    first = direct / 299_792_458.0 + truth.time_offsets_s
    arrivals = np.exp(-2j * np.pi * frequencies[:, None] * (first[:, None, None] + delays))
    tail = arrivals @ taps
    wanted = 10 ** (level_db / 10) * np.mean(np.abs(truth.channel) ** 2)
    tail *= np.sqrt(wanted / np.mean(np.abs(tail) ** 2))
    return received_through(simulation, truth.channel + tail, truth.symbols, seed)


def forgotten_shift(seed: int) -> Case:
    """Samples and pilots in the order of the transform, frequencies ascending."""
    simulation = clean(seed)
    was = simulation.observation
    mask_axis = was.pilot_mask.ndim - 2
    observation = replace(
        was,
        received=np.fft.ifftshift(was.received, axes=0),
        pilots=np.fft.ifftshift(was.pilots, axes=1),
        pilot_mask=np.fft.ifftshift(was.pilot_mask, axes=mask_axis),
    )
    return Case(observation, np.fft.ifftshift(simulation.truth.channel, axes=1), was)


def near_field(seed: int) -> Case:
    """A wide array hears spheres and is told planes."""
    shape = (32, 4)
    simulation = clean(seed, array_shape=shape, wavefront="spherical")
    observation = replace(simulation.observation, wavefront="planar")
    return Case(observation, simulation.truth.channel, clean(seed, array_shape=shape).observation)


def split_band(seed: int) -> Case:
    """Two blocks of 48 MHz, 240 MHz apart: the model fits, the ambiguity is fine."""
    simulation = clean(seed, n_subcarriers=192)
    was = simulation.observation
    kept = np.r_[:32, 160:192]
    observation = replace(
        was,
        received=was.received[kept],
        pilots=was.pilots[:, kept],
        pilot_mask=was.pilot_mask[..., kept, :],
        subcarrier_frequencies_hz=was.subcarrier_frequencies_hz[kept],
    )
    return Case(observation, simulation.truth.channel[:, kept], clean(seed).observation)


CASES: dict[str, Callable[[int], Case]] = {
    "dead element": dead_element,
    "dead subcarrier": dead_subcarrier,
    "element phases 0.03 rad": partial(element_phases, std_rad=0.03),
    "element phases 0.1 rad": partial(element_phases, std_rad=0.1),
    "element gains 3 %": partial(element_gains, std=0.03),
    "element gains 10 %": partial(element_gains, std=0.1),
    "transmit image -25 dB": partial(transmit_image, level_db=-25.0),
    "5 % clipped": partial(clipped, share=0.05),
    "amplifier back-off 9 dB": partial(saturated, back_off_db=9.0),
    "diffuse tail -25 dB": partial(diffuse_tail, level_db=-25.0),
    "diffuse tail -15 dB": partial(diffuse_tail, level_db=-15.0),
    "forgotten fftshift": forgotten_shift,
    "near field told planar": near_field,
    "two blocks 240 MHz apart": split_band,
}


def row(name: str, case: Case, estimator: isac.EMTurboBiSVBI, repeats: int) -> list[str]:
    """Ratio of the times, and what the block's estimate is worth."""
    result, heard = estimator.estimate(case.observation), case.channel != 0
    seconds = best_seconds(partial(estimator.estimate, case.observation), repeats)
    fitting = best_seconds(partial(estimator.estimate, case.fitting), repeats)
    return [
        name,
        f"{seconds / fitting:.1f}",
        f"{1e3 * fitting:.0f}",
        f"{isac.metrics.channel_nmse_db(result.channel[heard], case.channel[heard]):.1f}",
        str(len(result.scatterer_positions_m)),
        str(len(result.unlocated_paths.user)),
        f"{result.n_iter}, {result.status}",
    ]


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--without-unlocated", action="store_true", help="unlocated_paths=False")
    arguments = parser.parse_args()
    estimator = isac.EMTurboBiSVBI(unlocated_paths=not arguments.without_unlocated)
    estimator.estimate(clean(arguments.seed).observation)
    rows = [row(name, CASES[name](arguments.seed), estimator, arguments.repeats) for name in arguments.cases]
    heads = ["block", "times as long", "fitting ms", "NMSE dB", "points", "unlocated", "iterations"]
    print_table(f"urban_uplink, {SNR_DB:g} dB, seed {arguments.seed}", heads, rows)


if __name__ == "__main__":
    main()
