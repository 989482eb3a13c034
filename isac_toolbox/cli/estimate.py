"""The command ``isac estimate``; heavy modules are imported when it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox._catalogue import CATALOGUE, Entry
from isac_toolbox._choices import COARSE_STAGES, INVERSES, M_STEPS, RULES
from isac_toolbox.cli.errors import FAILED, Problem, bad_input, out_of_memory
from isac_toolbox.cli.inputs import (
    JsonOption,
    SeedOption,
    SetOption,
    SnrOption,
    draw,
    is_npz,
    load_observation,
    load_scenario,
    one_of,
    reject_for_file,
)
from isac_toolbox.cli.outputs import (
    check_page,
    check_plot,
    check_writable,
    compiling_notice,
    keep_inputs,
    make_console,
    npz_path,
    print_json,
    write_outputs,
)

if TYPE_CHECKING:
    from isac_toolbox._compilation import Compilation
    from isac_toolbox.bounds import HybridBound
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult, SceneRecorder
    from isac_toolbox.scenario import Simulation

__all__ = ["estimate"]


def estimate(
    source: Annotated[
        str, typer.Argument(metavar="SCENARIO|FILE.npz", help="Scenario to simulate, or a saved observation.")
    ],
    seed: SeedOption = None,
    snr_db: SnrOption = None,
    changes: SetOption = None,
    estimator: Annotated[str, one_of(CATALOGUE, "Method")] = "bisvbi",
    coarse: Annotated[str | None, one_of(COARSE_STAGES, "Stage that finds the first scene")] = None,
    rule: Annotated[str | None, one_of(RULES, "Update rule of the sparse prior")] = None,
    m_step: Annotated[str | None, one_of(M_STEPS, "Refinement of positions and clocks")] = None,
    inverse: Annotated[str | None, one_of(INVERSES, "E-step, on a working set or on a grid")] = None,
    max_iter: Annotated[int | None, typer.Option(min=1, help="Largest number of iterations.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Time after which the estimate is made of what there is.")
    ] = None,
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result as an npz file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the scene (png, pdf or svg).")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write the scene as an interactive page; needs the extra 'html'."
        ),
    ] = None,
) -> None:
    """Estimate scatterers, users, clocks, channel and data; compare with the truth if a scenario is given."""
    from isac_toolbox.cli.report import Run, estimation_report
    from isac_toolbox.cli.tables import print_estimation
    from isac_toolbox.estimators import SceneRecorder

    check_plot(plot)
    check_page(page)
    if save is not None:
        save = npz_path("--save", save)
        check_writable("--save", save)
    keep_inputs({"--save": save, "--plot": plot, "--html": page}, {"the observation": Path(source)})
    given = {
        "coarse": coarse,
        "rule": rule,
        "m_step": m_step,
        "inverse": inverse,
        "max_iter": max_iter,
        "max_seconds": max_seconds,
    }
    entry = CATALOGUE[estimator]
    _check_settings(estimator, entry, given)
    settings = {key: value for key, value in given.items() if value is not None}
    snr: float | None = None
    simulation: Simulation | None = None
    if is_npz(source):
        reject_for_file(seed=seed, snr_db=snr_db, set=changes)
        if entry.needs_truth:
            raise Problem(
                f"--estimator {estimator} needs the truth, which a file does not contain; give a scenario"
            )
        observation = load_observation(source)
        _check_drawable(observation, {"--plot": plot, "--html": page})
    else:
        described = load_scenario(source, snr_db, changes)
        simulation, snr = draw(described, seed or 0), described.snr_db
        observation = simulation.observation
    with bad_input(f"--estimator {estimator}"):
        method = entry.make(None if simulation is None else simulation.truth, **settings)
    recording = None if page is None else SceneRecorder()
    with compiling_notice(as_json) as compilation:
        result, seconds = _run_estimator(method, observation, compilation, as_json, recording)
        bound = _bound_of(simulation)
    run = Run(
        source=source,
        seed=None if simulation is None else seed or 0,
        observation=observation,
        result=result,
        seconds=seconds,
        simulation=simulation,
        bound=bound,
        snr_db=snr,
        recording=recording,
    )
    if save is not None:
        with bad_input("--save"):  # before anything is printed, whose reader may be gone
            result.save(save)
    summary = estimation_report(run)
    summary["estimator"]["settings"] = {**entry.settings, **settings}
    if as_json:
        print_json(summary)
    else:
        print_estimation(make_console(), summary)
    write_outputs(run, save, plot, page, quiet=as_json)
    if result.status == "numerical failure":
        raise Problem(
            f"the estimation failed ({result.status} after {result.n_iter} iterations); "
            "the numbers above are those of its last state",
            FAILED,
        )


def _check_drawable(observation: UplinkObservation, pictures: dict[str, Path | None]) -> None:
    """Refuse pictures of a block without places, before any work."""
    for option, path in pictures.items():
        if path is not None and observation.geometry is None:
            raise Problem(f"{option}: there is nothing to draw, as the observation has no region_m and users")


def _check_settings(name: str, entry: Entry, given: dict[str, Any]) -> None:
    """Refuse options that the estimator does not have, or that its name settles."""
    known = entry.free_settings
    unfit = [key for key, value in given.items() if value is not None and key not in known]
    if unfit:
        fitting = [_option(key) for key in given if key in known]
        has = f"it takes {', '.join(fitting)}" if fitting else "it takes none of these options"
        raise Problem(f"{', '.join(map(_option, unfit))} does not fit --estimator {name}; {has}")


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _run_estimator(
    method: Any,
    observation: UplinkObservation,
    compilation: Compilation,
    quiet: bool,
    recording: SceneRecorder | None,
) -> tuple[EstimationResult, float]:
    """Run with a progress bar on stderr, recording if asked.

    Returns
    -------
    EstimationResult
    float
        The seconds it took, without those for compiling kernels or reading them from the cache.
    """
    from numpy.linalg import LinAlgError

    from isac_toolbox._progress import open_progress
    from isac_toolbox.inference import Callbacks

    start, compiling = time.perf_counter(), compilation.seconds
    try:
        with open_progress(not quiet, "iteration", "iteration") as progress:
            progress.begin(text="coarse stage")

            def watch(loop: Any) -> None:
                state = f"noise {loop.noise_variance:.3g}, {loop.n_active} paths"
                progress.show(loop.n_iter, loop.max_iter, state)

            result = method.estimate(observation, callback=Callbacks(watch, recording))
    except MemoryError as error:
        raise Problem(f"the estimation failed: {out_of_memory(error)}", FAILED) from None
    except (LinAlgError, FloatingPointError) as error:
        raise Problem(f"the estimation failed: {error}", FAILED) from None
    except ValueError as error:
        raise Problem(str(error)) from None
    return result, time.perf_counter() - start - (compilation.seconds - compiling)


def _bound_of(simulation: Simulation | None) -> HybridBound | None:
    """Return the bound of a simulation; None without one or where it cannot be computed."""
    if simulation is None:
        return None
    import numpy as np

    from isac_toolbox.bounds import hybrid_crb

    try:
        return hybrid_crb(simulation)
    except (ValueError, np.linalg.LinAlgError):
        return None
