"""Readers of files under random bytes, guided by coverage (atheris): refused by name, or read.

``python fuzz/readers.py NAME [--seconds 60]``, or ``all`` for one after another; see ``make fuzz``.

Each target writes the bytes to a file and reads it. What may come of it is a value, or one of the documented
errors with the file's name; any other exception, a crash, more than 2 GiB or 20 seconds are a finding, whose
bytes stay in ``fuzz/findings``. Members of archives are changed inside, with right checksums, as a stranger
would. A run of all of them is kept in ``benchmarks/nightly/fuzz.txt``.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HEADS = ("reader", "seconds", "files tried", "branches reached", "findings")
RECORD, FINDINGS = ROOT / "benchmarks" / "nightly" / "fuzz.txt", ROOT / "fuzz" / "findings"
DOCUMENTED = (ValueError, TypeError, OSError, MemoryError)
#: What is instrumented: what reads. Kernels are compiled from bytecode as it is written.
INSTRUMENTED = [
    *(f"isac_toolbox.{name}" for name in ("_npz", "_files", "_validation")),
    *(f"isac_toolbox.channel.{name}" for name in ("observation_files", "observation_checks", "traced")),
    *(f"isac_toolbox.estimators.{name}" for name in ("result_files", "result_shapes")),
    *(f"isac_toolbox.scenario.{name}" for name in ("files", "settings")),
    *(f"isac_toolbox.sweeps.{name}" for name in ("_store", "_rows", "_result")),
    *(f"isac_toolbox.interop.{name}" for name in ("deepmimo", "csi")),
    *(f"isac_toolbox.nn.{name}" for name in ("_tensor_files", "_checkpoints", "_posteriors", "data")),
    *("isac_toolbox.nn.export.files", "isac_toolbox.cli.nn_own", "zipfile", "tomllib", "numpy.lib.format"),
]

#: Seconds that a target may take beside those it is given.
_STARTS_IN_S = 90


class Target(NamedTuple):
    """A reader: the file's name, what makes a good one there, what reads it, and what errors name it by."""

    name: str
    make: Callable[[Path], Any]
    load: Callable[[Path], Any]
    known_by: str = ""


def targets() -> dict[str, Callable[[], Target]]:
    """The readers by name; each imports what it needs when it is made."""
    return {
        "observation": _observation,
        "result": _result,
        "environment": _environment,
        "sweep": _sweep,
        "scenario": _scenario,
        "deepmimo": _deepmimo,
        "csi": _csi,
        "network": _network,
        "posterior": _posterior,
        "checkpoint": _checkpoint,
        "idx": _idx,
        "arrays": _arrays,
    }


def _block() -> Any:
    import isac_toolbox as isac

    scenario = isac.Scenario(array_shape=(2, 2), n_subcarriers=4, n_users=2, n_scatterers=2, n_data_symbols=2)
    return scenario.simulate(0).observation


def _observation() -> Target:
    import isac_toolbox as isac

    return Target("block.npz", _block().save, isac.UplinkObservation.load)


def _result() -> Target:
    import isac_toolbox as isac

    result = isac.LeastSquares().estimate(_block())
    return Target("result.npz", result.save, isac.EstimationResult.load)


def _environment() -> Target:
    import isac_toolbox as isac

    shipped = (ROOT / "isac_toolbox/data/traced/street_canyon.npz").read_bytes()
    return Target("traced.npz", lambda path: path.write_bytes(shipped), isac.load_traced)


def _sweep() -> Target:
    import isac_toolbox as isac

    sizes = {"array_shape": (2, 2), "n_subcarriers": 4, "n_users": 2, "n_scatterers": 1, "n_data_symbols": 2}

    def make(path: Path) -> None:
        isac.sweep(isac.Scenario(**sizes), {"snr_db": [0, 10]}, ["ls"], trials=1, store=path)

    return Target("sweep.db", make, lambda path: isac.load_sweep(path).summary())


def _scenario() -> Target:
    import isac_toolbox as isac

    return Target("own.toml", isac.Scenario.load("moving_uplink").dump, isac.Scenario.load)


def _deepmimo() -> Target:
    from helpers.foreign import street_folder
    from isac_toolbox.interop import deepmimo

    folder = street_folder(Path(tempfile.mkdtemp()))
    name = "power_t001_tx000_r002.npz"
    whole = (folder / name).read_bytes()

    def load(path: Path) -> Any:
        (folder / name).write_bytes(path.read_bytes())
        return deepmimo.load(folder)

    return Target(name, lambda path: path.write_bytes(whole), load, folder.name)


def _csi() -> Target:
    import numpy as np

    from helpers.foreign import intel_report
    from isac_toolbox.interop import csi

    rng = np.random.default_rng(0)
    log = b"".join(intel_report(rng)[0] for _ in range(3))
    return Target("log.dat", lambda path: path.write_bytes(log), csi.read_intel5300)


def _network() -> Target:
    import torch

    from isac_toolbox.nn import load_compressed, save_compressed
    from isac_toolbox.nn.models import mlp

    model = mlp(4, (3,), 2)
    masks = {
        n: torch.ones(m.weight.shape, dtype=bool) for n, m in model.named_modules() if hasattr(m, "weight")
    }
    return Target(
        "net.safetensors",
        lambda path: save_compressed(path, model, masks),
        lambda path: load_compressed(path, mlp(4, (3,), 2)),
    )


def _posterior() -> Target:
    import torch

    from isac_toolbox.nn._posteriors import read_state, write_state

    state = {"mean": torch.ones(3, 4), "layers": [{"std": torch.ones(3), "kept": 2}], "seed": 0}
    return Target(
        "posterior.safetensors",
        lambda path: write_state(path, "a thing 1", state),
        lambda path: read_state(path, "a thing 1"),
    )


def _checkpoint() -> Target:
    import torch

    from isac_toolbox.nn._checkpoints import Checkpoint

    def file(path: Path, resume: bool) -> Checkpoint:
        return Checkpoint.from_arguments(path, resume, "a thing 1", "a thing", {"rate": 0.5})

    def make(path: Path) -> None:
        file(path, False).write({"model": {"w": torch.ones(3, 4)}, "epoch": 3}, None)

    return Target("fit.pt", make, lambda path: file(path, True).resume(dict, None))


def _idx() -> Target:
    from isac_toolbox.nn.data import read_idx

    images = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 3)) + bytes(18)
    return Target("images-idx3-ubyte", lambda path: path.write_bytes(images), read_idx)


def _arrays() -> Target:
    import numpy as np

    from isac_toolbox.cli.nn_own import load_own_arrays

    def make(path: Path) -> None:
        np.savez(path, x_train=np.ones((4, 3)), y_train=np.arange(4) % 2)

    return Target("data.npz", make, load_own_arrays)


# ---- one target, in a process of its own ---------------------------------------------------------------


def fuzz(name: str, arguments: list[str]) -> None:
    """Read changed files without end, or as the arguments of libFuzzer say."""
    import atheris

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    target = targets()[name]()
    folder = Path(tempfile.mkdtemp())
    path, seeds = folder / target.name, folder / "seeds"
    seeds.mkdir()
    target.make(path)
    (seeds / "whole").write_bytes(path.read_bytes())
    target.load(path)
    for module in INSTRUMENTED:
        _instrument(module, atheris.instrument_func)
    warnings.simplefilter("ignore")

    def one(content: bytes) -> None:
        path.write_bytes(content)
        try:
            target.load(path)
        except DOCUMENTED as error:
            if not any(name in str(error) for name in (path.name, target.known_by) if name):
                raise

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        return _inside_of_archive(content, most, seed, atheris.Mutate)

    atheris.Setup([sys.argv[0], *arguments, str(seeds)], one, custom_mutator=mutate)
    atheris.Fuzz()


def _instrument(module: str, instrument: Callable[[Any], Any]) -> None:
    """Let functions and methods of a module that is loaded tell which of their branches are taken."""
    inside = vars(sys.modules.get(module, object)).values() if module in sys.modules else ()
    for thing in list(inside):
        parts = vars(thing).values() if inspect.isclass(thing) else (thing,)
        for part in parts:
            function = getattr(part, "__func__", part)
            if inspect.isfunction(function) and function.__module__ == module:
                with contextlib.suppress(Exception):  # some bytecode it does not know
                    instrument(function)


def _inside_of_archive(content: bytes, most: int, seed: int, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """Change a member of an archive, three times of four, and otherwise the bytes as they are."""
    if seed % 4 == 0 or not content.startswith(b"PK"):
        return mutate(content, most)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # what was changed before may be no archive any more, in any way
        return mutate(content, most)
    if not members:
        return mutate(content, most)
    chosen = sorted(members)[seed // 4 % len(members)]
    members[chosen] = mutate(members[chosen], len(members[chosen]) + 64)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for member, inside in members.items():
            archive.writestr(member, inside)
    return made.getvalue() if len(made.getvalue()) <= most else mutate(content, most)


# ---- a run and its record ------------------------------------------------------------------------------


def run(name: str, seconds: int) -> tuple[str, ...]:
    """Fuzz one target in a process of its own, and return what came of it as a row."""
    FINDINGS.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=20", "-max_len=65536"]
    command = [sys.executable, __file__, name, "--inside", *limits, f"-artifact_prefix={FINDINGS / name}-"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds + _STARTS_IN_S
        )
    except subprocess.TimeoutExpired:
        return (name, str(seconds), "", "", "it reads without end")
    said = done.stdout + done.stderr
    tried = re.findall(r"^#(\d+)\s", said, re.MULTILINE)
    edges = re.findall(r"\bcov: (\d+)", said)
    outcome = "none" if done.returncode == 0 else _last_words(said)
    return (name, str(seconds), *(found[-1] if found else "0" for found in (tried, edges)), outcome)


def _last_words(said: str) -> str:
    """The exception, or what libFuzzer calls it."""
    words = re.findall(r"^(?:[\w.]*(?:Error|Exception)\b.*|.*ERROR: libFuzzer.*)$", said, re.MULTILINE)
    return words[0][:120] if words else said[-120:].replace("\n", " ")


def write(path: Path, *table: Any) -> None:
    """Keep a table as the benchmarks do."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "nightly"))
    from tables import write as write_table

    write_table(path, *table)


def main() -> None:
    """Fuzz one target, or all of them for the record."""
    if "--inside" in sys.argv:
        at = sys.argv.index("--inside")
        fuzz(sys.argv[at - 1], sys.argv[at + 1 :])
        return
    parser = argparse.ArgumentParser(description="Fuzz readers of files.")
    parser.add_argument("name", choices=[*targets(), "all"])
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    lines = []
    for name in targets() if given.name == "all" else [given.name]:
        lines.append(run(name, given.seconds))
        print(*lines[-1], flush=True)
    if given.name == "all":
        write(RECORD, "Readers of files under random bytes", HEADS, lines)
    if any(line[-1] != "none" for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
