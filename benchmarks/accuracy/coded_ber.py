"""Are the LLRs good enough for a decoder? Rate-1/2 coded errors, information and reliability of the bits.

    python benchmarks/accuracy/coded_ber.py --store coded_ber.jsonl > benchmarks/accuracy/coded_ber.txt

Code and decoder: the WiMAX LDPC code of 1440 bits that scikit-commpy ships, sum-product decoding
(``pip install isac-toolbox[bench]``). The simulator draws the sent bits itself; they become a codeword by a
scrambling sequence that both ends know: with a random codeword ``c`` and sent bits ``b`` it is ``c xor b``,
and the decoder is given ``llr * (1 - 2 (c xor b))``. As the sent bits are uniform, this is no different from
scrambling ``c`` at random and sending it.
A random interleaver per user spreads every word over the block.

"information" is ``1 - mean log2(1 + exp(-(1 - 2 b) llr))``, what a decoder that takes the LLRs at their word
can use per bit: wrong scales cost it. Sum-product decoding, too, needs the right scale, which the rows with
halved and doubled LLRs show.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import commpy
import numpy as np
from commpy.channelcoding.ldpc import ldpc_bp_decode, triang_ldpc_systematic_encode
from runs import (
    RELIABILITY_HEADS,
    Figures,
    bit_calibration_error,
    bit_histogram,
    options,
    print_table,
    reliability_rows,
    run_tasks,
    seeds_of,
    seeds_text,
    sum_histograms,
    timed,
)

import isac_toolbox as isac
from isac_toolbox.channel.modulation import bit_labels

DESIGN = "channelcoding/designs/ldpc/wimax/1440.720.txt"
DECODER_ITERATIONS = 50

# Changes of urban_uplink, and the SNRs around the waterfall.
CASES: dict[str, tuple[dict[str, object], tuple[float, ...]]] = {
    "QPSK": ({}, (-18.0, -17.0, -16.0, -15.0, -14.0, -12.0)),
    "16-QAM": ({"modulation": "16qam"}, (-13.0, -12.0, -11.0, -10.0, -8.0)),
}

OURS = "EM-Turbo-BiSVBI"
GENIE = "perfect CSI"


@cache
def ldpc_code() -> dict[str, Any]:
    """Parameters of the code as commpy's encoder and decoder want them.

    Read here, as ``get_ldpc_code_params`` of scikit-commpy 0.8 fails with numpy 2.4; file layout: sizes,
    largest degrees, degrees of bits, degrees of checks, checks of every bit, bits of every check.
    """
    text = (Path(commpy.__file__).parent / DESIGN).read_text(encoding="utf-8")
    lines = [[int(value) for value in line.split()] for line in text.splitlines() if line.strip()]
    (n_bits, n_checks), (_, max_degree) = lines[0], lines[1]
    neighbours = np.full((n_checks, max_degree), -1)
    for check, bits in enumerate(lines[4 + n_bits : 4 + n_bits + n_checks]):
        neighbours[check, : len(bits)] = np.array(bits) - 1
    return {
        "n_vnodes": n_bits,
        "n_cnodes": n_checks,
        "max_cnode_deg": max_degree,
        "cnode_adj_list": neighbours.ravel(),
        "cnode_deg_list": np.array(lines[3]),
    }


def coded_errors(llr: np.ndarray, sent: np.ndarray, seed: tuple[int, int]) -> tuple[int, int, int]:
    """Wrong information bits, wrong words and words of one user's bits (B,)."""
    code = ldpc_code()
    length, n_information = code["n_vnodes"], code["n_vnodes"] - code["n_cnodes"]
    rng = np.random.default_rng(seed)
    order = rng.permutation(sent.size)
    wrong_bits, n_words, wrong_words = 0, sent.size // length, 0
    for own in order[: n_words * length].reshape(n_words, length):
        word = triang_ldpc_systematic_encode(rng.integers(0, 2, n_information), code, pad=False)
        scramble = word ^ sent[own]
        decoded, _ = ldpc_bp_decode(llr[own] * (1 - 2.0 * scramble), code, "SPA", DECODER_ITERATIONS)
        wrong = int(np.sum(decoded[:n_information] != word[:n_information]))
        wrong_bits, wrong_words = wrong_bits + wrong, wrong_words + (wrong > 0)
    return wrong_bits, wrong_words, n_words


def information_bits(llr: np.ndarray, sent: np.ndarray) -> float:
    """Sum over the bits of what LLRs taken at their word tell."""
    return float(np.sum(1 - np.logaddexp(0, -(1 - 2.0 * sent) * llr) / np.log(2)))


def hard_decisions(llr: np.ndarray) -> np.ndarray:
    """Signs of the LLRs, all as sure as they are on average."""
    error = np.mean(1 / (1 + np.exp(np.minimum(np.abs(llr), 50))))
    error = np.clip(error, 1e-6, 0.49)
    return np.where(llr < 0, -1.0, 1.0) * np.log((1 - error) / error)


def run_block(case: str, snr_db: float, seed: int) -> Figures:
    """All receivers' figures of one block."""
    scenario = isac.Scenario.load("urban_uplink").replace(**CASES[case][0], snr_db=snr_db)
    simulation = scenario.simulate(seed=seed)
    truth, obs = simulation.truth, simulation.observation
    data = truth.symbol_indices >= 0
    sent = bit_labels(obs.constellation.size)[truth.symbol_indices].astype(int)
    ours, _ = timed(lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation), simulation)
    llrs = {
        GENIE: isac.GenieLMMSE(truth=truth).estimate(obs).llr,
        OURS: ours.llr,
        "  LLRs halved": ours.llr / 2,
        "  LLRs doubled": ours.llr * 2,
        "  hard decisions": hard_decisions(ours.llr),
        "  data_aided=False": isac.EMTurboBiSVBI(data_aided=False).estimate(obs).llr,
        "NOMP with fusion": isac.NOMP().estimate(obs).llr,
    }
    return {name: bit_figures(llr, sent, data, seed) for name, llr in llrs.items()}


def bit_figures(llr: np.ndarray, sent: np.ndarray, data: np.ndarray, seed: int) -> Figures:
    """Counts of one receiver's LLRs (K, N, T, bits)."""
    coded = [
        coded_errors(llr[k][data[k]].ravel(), sent[k][data[k]].ravel(), (seed, k)) for k in range(len(llr))
    ]
    own_llr, own_sent = llr[data].ravel(), sent[data].ravel()
    return {
        "wrong_bits": sum(c[0] for c in coded),
        "wrong_words": sum(c[1] for c in coded),
        "words": sum(c[2] for c in coded),
        "uncoded_errors": int(np.sum((own_llr < 0) != own_sent)),
        "information": information_bits(own_llr, own_sent),
        "histogram": bit_histogram(own_llr, own_sent),
    }


def receiver_row(name: str, figures: list[Figures]) -> list[str]:
    """Pooled figures of one receiver."""

    def total(key: str) -> float:
        return sum(f[key] for f in figures)

    code, histogram = ldpc_code(), sum_histograms([f["histogram"] for f in figures])
    words, bits = total("words"), float(np.sum(histogram["bits"]))
    return [
        name,
        f"{total('uncoded_errors') / bits:.4f}",
        f"{total('wrong_bits') / (words * (code['n_vnodes'] - code['n_cnodes'])):.2g}",
        f"{total('wrong_words'):g} / {words:g}",
        f"{total('information') / bits:.4f}",
        f"{bit_calibration_error(histogram):.4f}",
    ]


HEADS = ("SNR dB", "LLRs of", "uncoded BER", "coded BER", "words wrong", "information", "bit ECE")


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=20, store=True)
    parser.add_argument("--cases", default=",".join(CASES), help="comma between names")
    arguments = parser.parse_args()
    for case in arguments.cases.split(","):
        rows, histograms = [], []
        for snr_db in CASES[case][1]:
            tasks = [(case, snr_db, seed) for seed in seeds_of(arguments)]
            figures = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
            for name in figures[0]:
                first = f"{snr_db:g}" if name == GENIE else ""
                rows.append([first, *receiver_row(name, [f[name] for f in figures])])
            histograms += [f[OURS]["histogram"] for f in figures]
        print_table(f"urban_uplink, {case}, LDPC of rate 1/2, {seeds_text(arguments)}", HEADS, rows)
        title = f"P(bit = 1) by {OURS}, {case}, all SNRs"
        print_table(title, RELIABILITY_HEADS, reliability_rows(sum_histograms(histograms)))


if __name__ == "__main__":
    main()
