"""The command ``isac selftest``: does this installation compute what it should?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer

from isac_toolbox.cli.errors import FAILED, Problem
from isac_toolbox.cli.outputs import compiling_notice

if TYPE_CHECKING:
    from isac_toolbox.scenario import Scenario

__all__ = ["selftest"]

#: Channel errors in dB of ``urban_uplink`` at 10 dB by seed; they move by far less from machine to machine.
_NMSE_DB = {0: -47.2866, 1: -47.0538}
_NMSE_TOLERANCE_DB = 0.05


def selftest() -> None:
    """Test this installation in less than a minute, on files in a temporary folder."""
    checks: dict[str, Callable[[Path], str]] = {
        "scenarios": _scenarios,
        "estimates": _estimates,
        "files": _files,
        "sweep": _sweep,
        "sparse recovery": _sparse_recovery,
        "networks": _networks,
    }
    failed = []
    with TemporaryDirectory() as folder, compiling_notice():
        for name, check in checks.items():
            start = time.perf_counter()
            try:
                said = check(Path(folder))
            except Exception as error:  # whatever an installation may lack or break
                failed.append(name)
                said = f"FAILED: {type(error).__name__}: {error}"
            typer.echo(f"{name:16} {said} ({time.perf_counter() - start:.1f} s)")
    if failed:
        raise Problem(f"the installation is not sound: {', '.join(failed)} failed", FAILED)
    typer.echo("all well")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(message)


def _small() -> Scenario:
    """A block of a few milliseconds."""
    from isac_toolbox.scenario import Scenario

    sizes = {"array_shape": (4, 4), "n_subcarriers": 16, "n_users": 2, "n_scatterers": 2, "n_data_symbols": 4}
    return Scenario.load("urban_uplink").replace(**sizes, n_pilot_symbols=None)


def _scenarios(folder: Path) -> str:
    """All shipped scenarios load, with the environments that they name."""
    from isac_toolbox.scenario import Scenario, scenario_names

    names = scenario_names()
    _require("urban_uplink" in names, "no scenarios were installed")
    for name in names:
        Scenario.load(name)
    return f"{len(names)} ready scenarios"


def _estimates(folder: Path) -> str:
    """The standard case has the stored error."""
    from isac_toolbox.estimators import EMTurboBiSVBI
    from isac_toolbox.metrics import channel_nmse_db
    from isac_toolbox.scenario import Scenario

    scenario, found = Scenario.load("urban_uplink").replace(snr_db=10.0), []
    for seed, wanted in _NMSE_DB.items():
        simulation = scenario.simulate(seed)
        result = EMTurboBiSVBI().estimate(simulation.observation)
        nmse_db = channel_nmse_db(result.channel, simulation.truth.channel)
        found.append(f"{nmse_db:.2f}")
        _require(
            abs(nmse_db - wanted) < _NMSE_TOLERANCE_DB,
            f"channel error {nmse_db:.3f} dB for seed {seed}, {wanted} dB is right",
        )
    return f"channel errors {' and '.join(found)} dB, as they should be"


def _files(folder: Path) -> str:
    """A block and a result come back from their files bit for bit, and a damaged file is refused."""
    import numpy as np

    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult, LeastSquares

    observation = _small().simulate(0).observation
    block = observation.save(folder / "block")
    result = LeastSquares().estimate(observation)
    again = EstimationResult.load(result.save(folder / "result"))
    same = np.array_equal(UplinkObservation.load(block).received, observation.received)
    _require(same and np.array_equal(again.channel, result.channel), "files came back otherwise")
    block.write_bytes(block.read_bytes()[:-100])
    try:
        UplinkObservation.load(block)
    except ValueError:
        return "a block and a result come back, a damaged file is refused"
    raise RuntimeError("a damaged file was read")


def _sweep(folder: Path) -> str:
    """A sweep goes on where its store ends, with the rows of one that was never stopped."""
    from isac_toolbox.sweeps import sweep

    store = folder / "sweep.db"
    points = {"snr_db": [0.0, 10.0]}
    sweep(_small(), points, ["ls"], trials=1, store=store)
    rows = sweep(_small(), points, ["ls", "nomp"], trials=2, store=store).rows
    whole = sweep(_small(), points, ["ls", "nomp"], trials=2).rows
    _require(
        [repr(row.metrics) for row in rows] == [repr(row.metrics) for row in whole],
        "a resumed sweep has other rows",
    )
    return f"{len(rows)} rows, resumed from a store"


def _sparse_recovery(folder: Path) -> str:
    """The engine finds the entries of a sparse vector."""
    import numpy as np

    from isac_toolbox.inference import sparse_recover

    rng = np.random.default_rng(0)
    matrix, sparse = rng.standard_normal((40, 80)) / np.sqrt(40), np.zeros(80)
    sparse[[5, 30, 61]] = 1.0, -2.0, 1.5
    found = sparse_recover(matrix, matrix @ sparse + 0.01 * rng.standard_normal(40))
    error = float(np.linalg.norm(found.mean - sparse) / np.linalg.norm(sparse))
    _require(error < 0.05, f"relative error {error:.3g}")
    return f"relative error {error:.1%} with 40 equations for 80 unknowns"


def _networks(folder: Path) -> str:
    """A network comes back from its compressed file, where the extra is installed."""
    from importlib.util import find_spec

    missing = [name for name in ("torch", "safetensors", "sklearn") if find_spec(name) is None]
    if missing:
        return f"left out, as the extra 'nn' is not installed ({', '.join(missing)} missing)"
    import torch

    from isac_toolbox.nn import load_compressed, save_compressed
    from isac_toolbox.nn.models import mlp

    model = mlp(8, (6,), 3)
    path = save_compressed(folder / "net", model, {})
    other = load_compressed(path, mlp(8, (6,), 3))
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    _require(same, "a network came back otherwise")
    return "a network comes back from its file"
