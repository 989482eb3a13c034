"""What the fit test says of blocks that the model does not fit, and how often it speaks up where it does.

    python benchmarks/accuracy/misfit.py [--seeds 20] [--store FILE] > benchmarks/accuracy/misfit.txt

Effects and wrong conventions in blocks of urban_uplink at 20 dB, then blocks that fit. "said" counts blocks
with any warning or a status beside "converged"; the four axes count blocks in which the fit test fails there,
"first" how often each is named first, and "lowest p" is the smallest p-value of all axes and blocks.
Scenarios with bodies of rays or a diffuse tail stand among those that fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from runs import Figures, options, print_table, run_tasks, seeds_of, seeds_text

import isac_toolbox as isac
from isac_toolbox.scenario import Simulation

SNR_DB = 20.0
#: Seconds from one OFDM symbol to the next.
SYMBOL_S = 36e-6
AXES = ("delay", "direction", "time", "element")
Observation = isac.UplinkObservation
Effect = Callable[[Simulation, np.random.Generator], Observation]


def received_through(simulation: Simulation, channel: np.ndarray, symbols: np.ndarray) -> Observation:
    """The block with its own noise that other symbols (K, N, T) over another channel (K, N, M) make."""
    truth, was = simulation.truth, simulation.observation
    noise = was.received - np.einsum("knm,knt->nmt", truth.channel, truth.symbols)
    return replace(was, received=np.einsum("knm,knt->nmt", channel, symbols) + noise)


def elements(simulation: Simulation, rng: np.random.Generator, gain: float, phase_deg: float) -> Observation:
    """Gains and phases of the antennas that nobody calibrated."""
    draws = rng.standard_normal((2, simulation.observation.array.n_elements))
    factors = (1 + gain * draws[0]) * np.exp(1j * np.deg2rad(phase_deg) * draws[1])
    return received_through(simulation, simulation.truth.channel * factors, simulation.truth.symbols)


def dead_element(simulation: Simulation, rng: np.random.Generator) -> Observation:
    """One antenna hears nothing but noise."""
    alive = np.arange(simulation.observation.array.n_elements) != rng.integers(64)
    return received_through(simulation, simulation.truth.channel * alive, simulation.truth.symbols)


def offsets(simulation: Simulation, rng: np.random.Generator, std_hz: float) -> Observation:
    """A carrier frequency offset of every user."""
    symbols = simulation.truth.symbols
    offset_hz = std_hz * rng.standard_normal((len(symbols), 1, 1))
    turned = symbols * np.exp(2j * np.pi * SYMBOL_S * offset_hz * np.arange(symbols.shape[2]))
    return received_through(simulation, simulation.truth.channel, turned)


def oscillator(simulation: Simulation, rng: np.random.Generator, step_deg: float) -> Observation:
    """Phase noise of the station: a random walk over the symbols."""
    symbols = simulation.truth.symbols
    phase = np.deg2rad(step_deg) * np.cumsum(rng.standard_normal(symbols.shape[2]))
    return received_through(simulation, simulation.truth.channel, symbols * np.exp(1j * phase))


def interferer(simulation: Simulation, rng: np.random.Generator, level_db: float) -> Observation:
    """Noise from one direction, so far above or below the users' mean power."""
    was, truth = simulation.observation, simulation.truth
    steering = was.array.steering_from_cosines(*rng.uniform(-0.5, 0.5, (2, 1)))[0]
    shape = (was.n_subcarriers, 1, was.n_symbols)
    waveform = rng.standard_normal((2, *shape)) * np.sqrt(np.mean(np.abs(truth.channel) ** 2) / 2)
    level = 10 ** (level_db / 20)
    return replace(was, received=was.received + level * (waveform[0] + 1j * waveform[1]) * steering[:, None])


def clipped(simulation: Simulation, rng: np.random.Generator, share: float) -> Observation:
    """A receiver that clips this share of its samples over time."""
    del rng
    samples = np.fft.ifft(simulation.observation.received, axis=0)
    amplitude = np.maximum(np.abs(samples), 1e-300)
    cut = samples * np.minimum(np.quantile(amplitude, 1 - share) / amplitude, 1)
    return replace(simulation.observation, received=np.fft.fft(cut, axis=0))


def tail(simulation: Simulation, rng: np.random.Generator, level_db: float) -> Observation:
    """Echoes from everywhere, 0 to 150 ns after the line of sight, so far below the channel."""
    truth, was = simulation.truth, simulation.observation
    n_users, _, n_elements = truth.channel.shape
    distance = np.linalg.norm(truth.user_positions_m - was.bs_position_m, axis=1)
    delays = distance[:, None] / 299_792_458.0 + rng.uniform(0, 150e-9, (n_users, 200))
    draws = rng.standard_normal((2, n_users, 200, n_elements))
    arrivals = np.exp(-2j * np.pi * was.subcarrier_frequencies_hz[:, None] * delays[:, None])
    echoes = arrivals @ (draws[0] + 1j * draws[1])
    power = np.mean(np.abs(truth.channel) ** 2) / np.mean(np.abs(echoes) ** 2)
    echoes *= np.sqrt(10 ** (level_db / 10) * power)
    return received_through(simulation, truth.channel + echoes, truth.symbols)


def conjugated(simulation: Simulation, rng: np.random.Generator) -> Observation:
    """Samples and symbols of the other sign convention."""
    del rng
    was = simulation.observation
    return replace(was, received=was.received.conj(), pilots=was.pilots.conj())


def samples_conjugated(simulation: Simulation, rng: np.random.Generator) -> Observation:
    """Samples alone of the other sign convention."""
    del rng
    return replace(simulation.observation, received=simulation.observation.received.conj())


def reordered(
    simulation: Simulation, rng: np.random.Generator, order: Callable[[np.ndarray], np.ndarray]
) -> Observation:
    """Elements in another order, by what it does to a table of columns and rows."""
    del rng
    index = order(np.arange(64).reshape(8, 8)).ravel()
    return replace(simulation.observation, received=simulation.observation.received[:, index])


def other_array(
    simulation: Simulation,
    rng: np.random.Generator,
    azimuth_deg: float = 0.0,
    tilt_deg: float = 0.0,
    spacing: float = 1.0,
) -> Observation:
    """An array that stands or is built otherwise than stated."""
    del rng
    array = simulation.observation.array
    stated = replace(
        array,
        azimuth_rad=array.azimuth_rad + np.deg2rad(azimuth_deg),
        elevation_rad=array.elevation_rad + np.deg2rad(tilt_deg),
        spacing_wavelengths=spacing * array.spacing_wavelengths,
    )
    return replace(simulation.observation, array=stated)


def other_tones(simulation: Simulation, rng: np.random.Generator, factor: float) -> Observation:
    """Subcarriers at other frequencies than stated."""
    del rng
    was = simulation.observation
    return replace(was, subcarrier_frequencies_hz=was.subcarrier_frequencies_hz * factor)


BASE = isac.Scenario.load("urban_uplink").replace(snr_db=SNR_DB)

EFFECTS: dict[str, Effect] = {
    "samples conjugated": samples_conjugated,
    "samples and pilots conjugated": conjugated,
    "rows and columns exchanged": partial(reordered, order=np.transpose),
    "rows top to bottom": partial(reordered, order=np.fliplr),
    "columns right to left": partial(reordered, order=np.flipud),
    "tilt off by 0.3 degrees": partial(other_array, tilt_deg=0.3),
    "tilt off by 1 degree": partial(other_array, tilt_deg=1.0),
    "tilt off by 3 degrees": partial(other_array, tilt_deg=3.0),
    "azimuth off by 1 degree": partial(other_array, azimuth_deg=1.0),
    "azimuth off by 3 degrees": partial(other_array, azimuth_deg=3.0),
    "spacing off by 0.3 %": partial(other_array, spacing=1.003),
    "spacing off by 1 %": partial(other_array, spacing=1.01),
    "spacing off by 3 %": partial(other_array, spacing=1.03),
    "subcarrier spacing off by 1 %": partial(other_tones, factor=1.01),
    "frequency offsets, std 10 Hz": partial(offsets, std_hz=10.0),
    "frequency offsets, std 100 Hz": partial(offsets, std_hz=100.0),
    "frequency offsets, std 1 kHz": partial(offsets, std_hz=1000.0),
    "oscillator, 0.3 degrees a symbol": partial(oscillator, step_deg=0.3),
    "oscillator, 3 degrees a symbol": partial(oscillator, step_deg=3.0),
    "element gains 1 %": partial(elements, gain=0.01, phase_deg=0.0),
    "element gains 10 %": partial(elements, gain=0.1, phase_deg=0.0),
    "element phases 1 degree": partial(elements, gain=0.0, phase_deg=1.0),
    "element phases 5 degrees": partial(elements, gain=0.0, phase_deg=5.0),
    "one dead element": dead_element,
    "interferer 30 dB below": partial(interferer, level_db=-30.0),
    "interferer 10 dB below": partial(interferer, level_db=-10.0),
    "1 % clipped": partial(clipped, share=0.01),
    "5 % clipped": partial(clipped, share=0.05),
    "diffuse tail -30 dB": partial(tail, level_db=-30.0),
    "diffuse tail -15 dB": partial(tail, level_db=-15.0),
}

NAMES = (
    "urban_uplink",
    "low_snr",
    "rich_scattering",
    "monostatic_echo",
    "traced_munich",
    "traced_street_canyon",
    "diffuse_uplink",
    "extended_scatterers",
)
SNRS_DB = (0.0, 10.0, 20.0)
#: What else fits, of urban_uplink.
OTHERS: dict[str, dict[str, object]] = {
    "urban_uplink, pilots alone": {"n_data_symbols": 0},
    "urban_uplink, 4 x 4": {"array_shape": (4, 4)},
    "urban_uplink, 2 x 2": {"array_shape": (2, 2), "n_users": 1},
    "urban_uplink, comb": {"pilot_pattern": "comb", "n_pilot_symbols": 2},
    "urban_uplink, 64-QAM": {"modulation": "64qam"},
    "urban_uplink, spherical": {"wavefront": "spherical"},
    "urban_uplink, beam squint": {"beam_squint": True},
}


def masked(simulation: Simulation, seed: int) -> Observation:
    """A tenth of the samples, three elements and five subcarriers are missing."""
    was, rng = simulation.observation, np.random.default_rng([seed, 5])
    there = rng.random(was.received.shape) > 0.1
    there[rng.integers(was.n_subcarriers, size=5)] = False
    alive = np.ones(was.array.n_elements, bool)
    alive[rng.integers(was.array.n_elements, size=3)] = False
    return replace(was, sample_mask=there, element_mask=alive)


def without_places(simulation: Simulation, seed: int) -> Observation:
    """Nothing is known of places."""
    del seed
    unknown = ("bs_position_m", "user_positions_m", "user_position_std_m", "region_m")
    return replace(simulation.observation, **dict.fromkeys(unknown), time_offset_std_s=None)


VARIANTS: dict[str, Callable[[Simulation, int], Observation]] = {
    "urban_uplink, masked": masked,
    "urban_uplink, without places": without_places,
}


def scenario_of(case: str, snr_db: float | None) -> isac.Scenario:
    """The scenario of a fitting case."""
    scenario = isac.Scenario.load(case.partition(",")[0]).replace(**OTHERS.get(case, {}))
    return scenario if snr_db is None else scenario.replace(snr_db=snr_db)


def run_block(case: str, snr_db: float | None, seed: int) -> Figures:
    """One block."""
    if case in EFFECTS:
        simulation = BASE.simulate(seed=seed)
        observation = EFFECTS[case](simulation, np.random.default_rng([seed, 9]))
    else:
        simulation = scenario_of(case, snr_db).simulate(seed=seed)
        observation = VARIANTS.get(case, lambda sim, _: sim.observation)(simulation, seed)
    result = isac.EMTurboBiSVBI().estimate(observation)
    assert result.misfit is not None
    return {
        "said": bool(result.warnings) or result.status != "converged",
        "failing": list(result.misfit.failing),
        "p_values": [result.misfit.axes[name].p_value for name in AXES],
        "status": result.status,
    }


def row(case: str, blocks: list[Figures]) -> list[str]:
    """Counts of a case."""
    first = Counter(block["failing"][0] for block in blocks if block["failing"])
    counts = [sum(axis in block["failing"] for block in blocks) for axis in AXES]
    lowest = np.nanmin([np.array(block["p_values"], float) for block in blocks])
    return [
        case,
        f"{sum(block['said'] for block in blocks)} of {len(blocks)}",
        str(sum(bool(block["failing"]) for block in blocks)),
        *map(str, counts),
        ", ".join(f"{name} {n}" for name, n in first.most_common()),
        f"{lowest:.0e}",
    ]


HEADS = ("case", "said", "misfit", *AXES, "first", "lowest p")


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=20, store=True)
    parser.add_argument("--cases", nargs="+", help="these cases alone")
    arguments = parser.parse_args()
    seeds = seeds_of(arguments)
    effects = [(case, None) for case in EFFECTS]
    fitting: list[tuple[str, float | None]] = [(name, snr) for name in NAMES for snr in SNRS_DB]
    fitting += [(case, None) for case in (*OTHERS, *VARIANTS)]
    for title, cases in (
        (f"urban_uplink at {SNR_DB:g} dB with effects", effects),
        ("blocks that fit", fitting),
    ):
        chosen = [case for case in cases if arguments.cases is None or case[0] in arguments.cases]
        tasks = [(*case, seed) for case in chosen for seed in seeds]
        figures = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
        rows = []
        for i, (case, snr_db) in enumerate(chosen):
            blocks = figures[i * len(seeds) : (i + 1) * len(seeds)]
            rows.append(row(case if snr_db is None else f"{case}, {snr_db:.0f} dB", blocks))
        if rows:
            print_table(f"{title}, {seeds_text(arguments)}", HEADS, rows)


if __name__ == "__main__":
    main()
