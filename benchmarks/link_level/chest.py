r"""Channel estimation in link-level simulations of Sionna PHY: errors of channels, bits and words, and time.

    cd benchmarks/link_level && python chest.py --store chest.jsonl > chest.txt

4 users with one antenna, a station of 4 x 4, 14 symbols of 624 subcarriers of 30 kHz at 3.5 GHz, Kronecker
pilots on the 3rd and 12th symbol, 16-QAM, four LDPC words of rate 1/2 a user and slot, UMi and UMa of 3GPP TR
38.901 with and without a line of sight, channels of unit power (``pip install isac-toolbox[sionna]``).

All but the rows "own LLRs" are detected by the LMMSE detector of Sionna with the stated error variance.
"LS" is that of Sionna with linear interpolation; "LMMSE" the joint filter over frequency and time, antenna
by antenna, whose covariances are those of other drops of the same model, ``--covariance-drops`` of them
(Sionna's own does the two one after the other and takes five minutes a block on a CPU). "SBL" is sparse
Bayesian learning over a dictionary of delays, one prior a delay for all antennas and pilot symbols, ten
iterations; between the pilot symbols it interpolates. Nobody knows places. "EM, decoder" has the LDPC
decoder in its loop. Where users move, all EM rows know how fast, and neither direction nor Doppler shift.
NMSE is that of the mean error over all cells and drops, then those of the median and the worst drop; time is
the processor's for channel estimation, with its detection where the estimator has one. Drops are seeds; a
store that was begun is gone on with, and may hold more drops of one method than of another.

One user of the first drop of UMa has a delay spread of 2 to 4 us and echoes of up to 20 us, where the comb of
four users tells delays of up to 8.3 us apart: that limits all estimators there, and the mean of the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sionna.phy import config
from sionna.phy.channel import (
    ApplyOFDMChannel,
    cir_to_ofdm_channel,
    gen_single_sector_topology,
    subcarrier_frequencies,
)
from sionna.phy.channel.tr38901 import PanelArray, UMa, UMi
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
from sionna.phy.mapping import Mapper
from sionna.phy.mimo import StreamManagement
from sionna.phy.ofdm import LinearDetector, LSChannelEstimator, ResourceGrid, ResourceGridMapper
from sionna.phy.utils import ebnodb2no

import isac_toolbox as isac
from isac_toolbox.interop._blocks import grid_pilots
from isac_toolbox.interop.conventions import llr_stream, nr_constellation
from isac_toolbox.interop.sionna import SionnaDecoder, SionnaEstimator

USERS, BITS, WORDS, CARRIER_HZ = 4, 4, 4, 3.5e9
ARRAY = isac.UniformPlanarArray((4, 4))
MODELS = {"UMi": UMi, "UMa": UMa}
METHODS = (
    "perfect CSI",
    "LS",
    "LMMSE",
    "SBL",
    "NOMP",
    "EM",
    "EM, own LLRs",
    "EM, decoder",
    "EM, decoder, own LLRs",
)
HEADS = (
    "Eb/N0 dB",
    "method",
    "drops",
    "NMSE dB",
    "median",
    "worst",
    "coded BER",
    "words wrong",
    "median CPU s",
)


@cache
def grid() -> ResourceGrid:
    """Resource grid of all blocks; its pilots are drawn once."""
    config.seed = 1
    return ResourceGrid(
        num_ofdm_symbols=14,
        fft_size=624,
        subcarrier_spacing=30e3,
        num_tx=USERS,
        cyclic_prefix_length=44,
        pilot_pattern="kronecker",
        pilot_ofdm_symbol_indices=[2, 11],
    )


@cache
def encoder() -> LDPC5GEncoder:
    """Code of a quarter of a user's data."""
    n_code_bits = grid().num_data_symbols * BITS // WORDS
    return LDPC5GEncoder(n_code_bits // 2, n_code_bits)


def channels(model: str, sight: bool, speed_m_s: float, seed: int, count: int = 1) -> torch.Tensor:
    """Channels [count, 1, 16, 4, 1, 14, 624] of unit power."""
    config.seed = seed
    station, user = (
        PanelArray(
            num_rows_per_panel=n,
            num_cols_per_panel=n,
            polarization="single",
            polarization_type="V",
            antenna_pattern="omni",
            carrier_frequency=CARRIER_HZ,
        )
        for n in (4, 1)
    )
    made = MODELS[model](
        carrier_frequency=CARRIER_HZ,
        ut_array=user,
        bs_array=station,
        direction="uplink",
        enable_pathloss=False,
        enable_shadow_fading=False,
        o2i_model="low",
    )
    topology = gen_single_sector_topology(
        count,
        USERS,
        model.lower(),
        indoor_probability=0.0,
        min_ut_velocity=speed_m_s,
        max_ut_velocity=speed_m_s,
    )
    made.set_topology(*topology, los=sight)
    a, tau = made(14, 1 / grid().ofdm_symbol_duration)
    frequencies = subcarrier_frequencies(grid().fft_size, grid().subcarrier_spacing)
    return cir_to_ofdm_channel(frequencies, a, tau, normalize=True)


@cache
def covariances(model: str, sight: bool, speed_m_s: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariances over time (14, 14) and frequency (624, 624), of drops that are estimated by nobody."""
    sums = [np.zeros((n, n), complex) for n in (14, 624)]
    for seed in range(count):
        h = np.asarray(channels(model, sight, speed_m_s, 10_000 + seed)[0, 0, :, :, 0])  # [16, 4, 14, 624]
        for total, axis in zip(sums, (2, 3), strict=True):
            rows = np.moveaxis(h, axis, 0).reshape(h.shape[axis], -1)
            total += rows @ rows.conj().T / rows.shape[1] / count
    return sums[0], sums[1]


class FromPilots:
    """An estimator that sees what least squares finds on a user's pilots, antenna by antenna.

    ``filtered`` maps these values (pilot symbols, pilot subcarriers, antennas), their noise, symbols and
    subcarriers to the channel and its variance on all cells (14, 624, antennas).
    """

    def __init__(self, filtered: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
        self.filtered = filtered

    def __call__(self, y: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        samples, (pilots, _) = np.asarray(y)[0, 0].transpose(1, 2, 0), grid_pilots(grid())
        found = []
        for sent in pilots.transpose(0, 2, 1):  # [14, 624]
            symbols, tones = (np.flatnonzero(np.any(sent, axis=axis)) for axis in (1, 0))
            cells = np.ix_(symbols, tones)
            heard = samples[cells] / sent[cells][..., None]
            found.append(self.filtered(heard, float(no) / np.mean(np.abs(sent[cells]) ** 2), symbols, tones))
        h_hat, err_var = (
            np.stack(part).transpose(3, 0, 1, 2)[None, None, :, :, None] for part in zip(*found)
        )
        return torch.as_tensor(h_hat, dtype=torch.complex64), torch.as_tensor(err_var, dtype=torch.float32)


def lmmse(case: tuple[str, bool, float], count: int) -> FromPilots:
    """Joint linear filter over time and frequency with separable covariances."""
    over_time, over_frequency = covariances(*case, count)

    def filtered(heard, noise, symbols, tones):  # type: ignore[no-untyped-def]
        own = np.kron(over_time[np.ix_(symbols, symbols)], over_frequency[np.ix_(tones, tones)])
        gain = np.linalg.inv(own + noise * np.eye(len(own)))
        cross = np.kron(over_time[:, symbols], over_frequency[:, tones])  # [14 * 624, pilots]
        shape = (14, 624, heard.shape[2])
        filters = cross @ gain
        h_hat = (filters @ heard.reshape(-1, shape[2])).reshape(shape)
        power = np.kron(np.diag(over_time).real, np.diag(over_frequency).real)
        left = power - np.einsum("ij,ij->i", filters, cross.conj()).real
        return h_hat, np.broadcast_to(np.maximum(left, 0.0).reshape(14, 624, 1), shape)

    return FromPilots(filtered)


def sparse_bayes(n_delays: int = 312, n_iter: int = 10) -> FromPilots:
    """Sparse Bayesian learning (Wipf and Rao 2007) over delays up to the comb's period."""

    def filtered(heard, noise, symbols, tones):  # type: ignore[no-untyped-def]
        period = 624 / (tones[1] - tones[0])
        delays = np.arange(n_delays) / n_delays * period - 0.05 * period
        atoms = np.exp(-2j * np.pi * np.outer(np.arange(624), delays) / 624)
        used, data = atoms[tones], np.concatenate(list(heard), axis=1)  # (tones, symbols * antennas)
        power = np.full(n_delays, np.mean(np.abs(data) ** 2) / n_delays)
        for _ in range(n_iter):
            gain = power[:, None] * used.conj().T
            gain = gain @ np.linalg.inv(used @ gain + noise * np.eye(len(tones)))
            mean = gain @ data
            left = power * (1 - np.einsum("ij,ji->i", gain, used).real)
            power = np.mean(np.abs(mean) ** 2, axis=1) + left
        at_pilots = (atoms @ mean).reshape(624, len(symbols), -1)
        covariance = np.diag(power) - gain @ used * power
        error = np.einsum("ij,jk,ik->i", atoms, covariance, atoms.conj()).real
        weights = np.stack([np.interp(np.arange(14), symbols, row) for row in np.eye(len(symbols))])
        h_hat = np.einsum("nsm,st->tnm", at_pilots, weights)
        return h_hat, np.broadcast_to(np.maximum(error, 0.0)[None, :, None], h_hat.shape)

    return FromPilots(filtered)


class Kept:
    """An estimator that keeps its last result."""

    def __init__(self, estimator: Any) -> None:
        self.estimator, self.result = estimator, None

    def estimate(self, obs: isac.UplinkObservation) -> isac.EstimationResult:
        self.result = self.estimator.estimate(obs)
        return self.result


def channel_estimators(
    arguments: argparse.Namespace, case: tuple[str, bool, float]
) -> dict[str, Callable[[], Any]]:
    """How every channel estimator is made."""

    def ours(estimator: Any) -> SionnaEstimator:
        return SionnaEstimator(
            grid(),
            estimator=Kept(estimator),
            array=ARRAY,
            carrier_hz=CARRIER_HZ,
            constellation=nr_constellation(BITS),
            user_velocity_std_m_s=case[2] / np.sqrt(2) or None,
        )

    code = encoder()
    decoder = LDPC5GDecoder(code, hard_out=False, return_infobits=False, num_iter=10)
    loop = SionnaDecoder(decoder, grid(), code.n)
    limit = arguments.max_seconds
    return {
        "LS": lambda: LSChannelEstimator(grid(), interpolation_type="lin"),
        "LMMSE": lambda: lmmse(case, arguments.covariance_drops),
        "SBL": sparse_bayes,
        "NOMP": lambda: ours(isac.NOMP()),
        "EM": lambda: ours(isac.EMTurboBiSVBI(max_seconds=limit)),
        "EM, decoder": lambda: ours(isac.EMTurboBiSVBI(max_seconds=limit, decoder=loop)),
    }


def block_rows(
    arguments: argparse.Namespace, case: tuple[str, bool, float], ebno_db: float, drop: int, done: set[str]
) -> Iterator[dict[str, Any]]:
    """Figures of every method that a block does not have yet."""
    code = encoder()  # seeds its grid when it is first made
    h = channels(*case, seed=drop)
    config.seed = 1_000 + drop
    drawn = torch.Generator().manual_seed(1_000 + drop)  # not of Sionna's seed
    information = torch.randint(0, 2, (1, USERS, 1, WORDS, code.k), generator=drawn).float()
    x = ResourceGridMapper(grid())(Mapper("qam", BITS)(code(information).flatten(-2)))
    no = ebnodb2no(ebno_db, BITS, 0.5, grid())
    y = ApplyOFDMChannel()(x, h, no)
    management = StreamManagement(np.ones((1, USERS)), 1)
    detector = LinearDetector(
        "lmmse", "bit", "app", grid(), management, constellation_type="qam", num_bits_per_symbol=BITS
    )
    decode = LDPC5GDecoder(code)

    def figures(method: str, llr: torch.Tensor, error: float, seconds: float, status: str) -> dict[str, Any]:
        decoded = decode(llr.reshape(1, USERS, 1, WORDS, code.n))
        wrong = decoded != information
        return {
            "method": method,
            "nmse": error,
            "bits": int(wrong.sum()),
            "words": int(wrong.any(dim=-1).sum()),
            "seconds": seconds,
            "status": status,
        }

    if "perfect CSI" in arguments.methods and "perfect CSI" not in done:
        yield figures("perfect CSI", detector(y, h, torch.zeros(1), no), 0.0, 0.0, "")
    for method, make in channel_estimators(arguments, case).items():
        own = f"{method}, own LLRs"
        if method not in arguments.methods or (method in done and (own in done or own not in METHODS)):
            continue
        estimator = make()
        start = process_time()
        h_hat, err_var = estimator(y, no)
        seconds = process_time() - start
        error = float(torch.sum(torch.abs(h_hat - h) ** 2) / torch.sum(torch.abs(h) ** 2))
        kept = getattr(estimator, "_estimator", None)
        result = kept.result if kept is not None else None
        status = "" if result is None else result.status
        if method not in done:
            yield figures(method, detector(y, h_hat, err_var, no), error, seconds, status)
        if own in METHODS and own not in done:
            known = np.asarray(grid().pilot_pattern.mask)[:, 0].astype(bool).transpose(0, 2, 1)
            llr = torch.as_tensor(llr_stream(result.llr, known)[None, :, None], dtype=torch.float32)
            yield figures(own, llr, error, seconds, status)


def print_tables(rows: list[dict[str, Any]]) -> None:
    """A table for every model, with the number of drops of every row."""
    console = Console(width=120)
    for case in sorted({tuple(row["case"]) for row in rows}):
        model, sight, speed = case
        title = f"{model}, {'line of sight' if sight else 'no line of sight'}, {speed:g} m/s"
        table = Table(title=title, title_justify="left")
        for head in HEADS:
            table.add_column(head)
        for ebno_db in sorted({row["ebno_db"] for row in rows}):
            for method in METHODS:
                own = [
                    r
                    for r in rows
                    if (tuple(r["case"]), r["ebno_db"], r["method"]) == (case, ebno_db, method)
                ]
                if not own:
                    continue
                errors = np.array([r["nmse"] for r in own])
                error = float(errors.mean())
                n_words = len(own) * USERS * WORDS
                table.add_row(
                    f"{ebno_db:g}",
                    method,
                    str(len(own)),
                    *(
                        f"{10 * np.log10(e):.1f}" if error else ""
                        for e in (error, np.median(errors), errors.max())
                    ),
                    f"{sum(r['bits'] for r in own) / (n_words * encoder().k):.2g}",
                    f"{sum(r['words'] for r in own)} / {n_words}",
                    f"{np.median([r['seconds'] for r in own]):.2f}" if error else "",
                )
        console.print(table)


def main() -> None:
    """Run what the store has not got, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="file of JSON lines, gone on with")
    parser.add_argument("--drops", type=int, default=2)
    parser.add_argument("--ebno", type=float, nargs="+", default=[-4.0, -2.0, 0.0, 2.0, 5.0, 15.0])
    parser.add_argument("--speeds", type=float, nargs="+", default=[0.0], help="metres per second")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--covariance-drops", type=int, default=50)
    parser.add_argument("--max-seconds", type=float, help="of a run of EM-Turbo-BiSVBI")
    arguments = parser.parse_args()
    text = arguments.store.read_text(encoding="utf-8") if arguments.store.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    cases = list(product(MODELS, (True, False), arguments.speeds))
    for drop, ebno_db, case in product(range(arguments.drops), arguments.ebno, cases):
        key = {"case": list(case), "ebno_db": ebno_db, "drop": drop}
        done = {row["method"] for row in rows if all(row[name] == value for name, value in key.items())}
        for found in block_rows(arguments, case, ebno_db, drop, done):
            rows.append(key | found)
            with arguments.store.open("a", encoding="utf-8") as store:
                store.write(json.dumps(rows[-1]) + "\n")
    print_tables(rows)


if __name__ == "__main__":
    main()
