"""What every choice of the estimator is worth: rules, M-steps, coarse stages, unlocated paths.

    python benchmarks/accuracy/ablation.py --store ablation.jsonl > benchmarks/accuracy/ablation.txt

All combinations on the standard case at 10 dB and on the two ray-traced cities at 20 dB, users in groups of
four; the last rows of each table estimate from the pilots alone. In the cities "true" counts all
single-bounce points, also those that nobody could see at this SNR. NMSE and bound are means over blocks.
MUSIC with the structured or the mean-field rule keeps many candidates and takes 10 s a block: such rows run
on the first ``--slow`` blocks only. In the cities MUSIC takes minutes a block and is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from runs import (
    Figures,
    Pool,
    Trial,
    measure,
    options,
    percent,
    print_table,
    run_tasks,
    seeds_of,
    seeds_text,
    to_db,
)

import isac_toolbox as isac
from isac_toolbox.scenario import Simulation

CHOICES: dict[str, tuple[Any, ...]] = {
    "coarse": ("nomp", "music"),
    "rule": ("extrinsic", "structured", "mean_field"),
    "m_step": ("gauss_newton", "gradient"),
    "unlocated_paths": (True, False),
}
SNRS_DB = {"urban_uplink": 10.0, "traced_munich": 20.0, "traced_street_canyon": 20.0}
GROUP = 4


def all_settings() -> list[dict[str, Any]]:
    """Every combination, then pilots alone with either coarse stage."""
    combinations = [dict(zip(CHOICES, values)) for values in product(*CHOICES.values())]
    pilots = [{"coarse": coarse, "data_aided": False} for coarse in CHOICES["coarse"]]
    return combinations + pilots


def simulate(name: str, seed: int) -> Simulation:
    """A block; in a city of the users ``4 seed`` to ``4 seed + 3``."""
    scenario = isac.Scenario.load(name).replace(snr_db=SNRS_DB[name])
    if scenario.traced is None:
        return scenario.simulate(seed=seed)
    users = list(range(GROUP * seed, GROUP * seed + GROUP))
    return scenario.simulate(seed=seed, environment=isac.load_traced(scenario.traced), users=users)


def is_slow(settings: dict[str, Any]) -> bool:
    """Whether the settings keep many candidates."""
    return settings["coarse"] == "music" and settings.get("rule", "extrinsic") != "extrinsic"


def blocks_of(name: str, settings: dict[str, Any], arguments: argparse.Namespace) -> Sequence[int]:
    """Seeds of the standard case, or groups of a city, that some settings run on."""
    synthetic = isac.Scenario.load(name).traced is None
    blocks = seeds_of(arguments) if synthetic else range(arguments.groups)
    if not synthetic and settings["coarse"] == "music":
        return blocks[:0]
    return blocks[: arguments.slow] if is_slow(settings) else blocks


def run_block(name: str, seed: int, settings: dict[str, Any]) -> Figures:
    """One block with some settings."""
    estimator = isac.EMTurboBiSVBI(**settings)
    return asdict(measure(simulate(name, seed), lambda sim: estimator.estimate(sim.observation)))


def settings_row(settings: dict[str, Any], trials: list[Trial]) -> list[str]:
    """Settings and pooled figures in the order of :data:`HEADS`."""
    pool = Pool(trials)
    nmse, bound = to_db(pool.mean("nmse")), to_db(pool.mean("bound_nmse"))
    estimator = isac.EMTurboBiSVBI(**settings)
    seconds = [t.seconds for t in trials]
    return [
        estimator.coarse,
        estimator.rule,
        estimator.m_step,
        "yes" if estimator.unlocated_paths else "no",
        "yes" if estimator.data_aided else "no",
        str(len(trials)),
        f"{nmse:.2f}",
        f"{nmse - bound:.2f}",
        f"{pool.worst_gap_db:.2f}",
        f"{pool.hits} / {pool.total('true')}",
        f"{pool.false} ({percent(pool.false, pool.total('reported'))})",
        pool.rmse_text,
        f"{np.median(seconds):.2f}",
        f"{max(seconds):.2f}",
    ]


HEADS = (
    "coarse",
    "rule",
    "M-step",
    "unlocated",
    "data",
    "blocks",
    "NMSE dB",
    "gap dB",
    "worst gap dB",
    "found / true",
    "false",
    "RMSE m (bound)",
    "median s",
    "worst s",
)


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=20, store=True)
    parser.add_argument("--groups", type=int, default=6, help="groups of users per city, up to 6")
    parser.add_argument("--slow", type=int, default=3, help="blocks of the standard case for slow settings")
    parser.add_argument("--scenarios", default=",".join(SNRS_DB), help="comma between names")
    arguments = parser.parse_args()
    for name in arguments.scenarios.split(","):
        chosen = [(own, blocks_of(name, own, arguments)) for own in all_settings()]
        chosen = [(own, blocks) for own, blocks in chosen if len(blocks)]
        tasks = [(name, block, own) for own, blocks in chosen for block in blocks]
        figures = iter(run_tasks(run_block, tasks, arguments.jobs, arguments.store))
        rows = [settings_row(own, [Trial(**next(figures)) for _ in blocks]) for own, blocks in chosen]
        synthetic = isac.Scenario.load(name).traced is None
        text = seeds_text(arguments) if synthetic else f"{arguments.groups} groups of {GROUP} users"
        print_table(f"{name}, {SNRS_DB[name]:g} dB, {text}", HEADS, rows)


if __name__ == "__main__":
    main()
