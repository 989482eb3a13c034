"""The command ``isac nn compress``; nothing here imports torch before it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox._choices import RULES, SUPPORTS
from isac_toolbox.cli.errors import bad_input
from isac_toolbox.cli.inputs import one_of
from isac_toolbox.cli.nn_own import is_own_network
from isac_toolbox.cli.nn_shared import (
    TEST_SET,
    CheckpointOption,
    DataOption,
    ModelName,
    ModelOption,
    ResumeOption,
    Task,
    ThreadsOption,
    check_checkpoint,
    draw_masks,
    fitting_threads,
    is_own,
    layer_table,
    load_task,
    make_network,
    needs_extra,
)
from isac_toolbox.cli.outputs import compiling_notice, make_console, print_json

if TYPE_CHECKING:
    from torch import nn

    from isac_toolbox.nn.export.report import CompressionReport

__all__ = ["compress"]

_DENSE, _FINETUNE = 1 / 3, 1 / 4
_TIMED = ("dense", "exported")
_DENSE_FORMAT = "isac-toolbox dense network 1"


def compress(
    model: ModelOption = ModelName.digits_mlp,
    data: DataOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=12, help="Epochs of dense training, compression and fine-tuning together."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Temperature of the KL term: higher keeps fewer weights. Without it, a network or data of "
            "your own lose at most 0.01.",
        ),
    ] = None,
    support_temperature: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="Temperature of the support alone: higher prunes more, without noise on the rest."
        ),
    ] = None,
    max_weights: Annotated[
        int | None,
        typer.Option(min=1, help="Budget: the least certain weights beyond it are removed as well."),
    ] = None,
    support: Annotated[str, one_of(SUPPORTS, "Support graph")] = "chain",
    rule: Annotated[str, one_of(RULES, "Update rule of the sparse prior")] = "extrinsic",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and noise.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")] = Path("compressed"),
    data_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of Fashion-MNIST's idx files.")
    ] = None,
    checkpoint: CheckpointOption = None,
    resume: ResumeOption = False,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a network, compress it, and write the smaller network and a picture of its masks."""
    with needs_extra():
        from isac_toolbox.nn import TurboVBICompressor, save_compressed
    with bad_input("--out"):
        out.mkdir(parents=True, exist_ok=True)
    with bad_input("--checkpoint"):
        check_checkpoint(checkpoint, resume)
    with bad_input("--data"):
        task = load_task(model, data, data_folder, seed)
    with bad_input("--model"):
        network = make_network(model, task, seed)
    total = epochs or (120 if task.is_small else 40)
    guarded = temperature is None and support_temperature is None and is_own(model, data)
    temperatures: dict[str, Any] = {}
    if not guarded:
        temperature = temperature or (0.15 if task.is_small else 0.4)
        temperatures = {"temperature": temperature, "temperature_start": min(0.05, temperature)}
    rate = 2e-3 if task.is_small else 1e-3
    with fitting_threads(task, threads), compiling_notice(as_json):
        trained = is_own_network(model) and _is_trained(network, task)
        n_dense = 0 if trained else round(_DENSE * total)
        n_fine = 0 if guarded and max_weights is None else round(_FINETUNE * total)
        n_fit = total - n_dense - n_fine
        if not as_json:
            typer.echo(
                f"{model} on {task.name}: {n_dense} dense, {n_fit} compressing, {n_fine} fine-tuning epochs"
            )
        with bad_input("--model"):
            TurboVBICompressor(network, seed=seed)  # refuses, before any work, what cannot be compressed
        with bad_input():
            _train_dense(network, task, n_dense, rate, seed, checkpoint, resume)
            compressor = TurboVBICompressor(
                network,
                loss=task.loss,
                **temperatures,
                support_temperature=support_temperature,
                support=support,
                rule=rule,
                warmup_epochs=2,
                learning_rate=rate,
                seed=seed,
            )
            compressor.fit(
                task.train,
                task.validation,
                epochs=n_fit,
                teacher=network,
                checkpoint=checkpoint,
                resume=resume,
                progress=not as_json,
            )
        with bad_input("--max-weights"):
            if max_weights is not None:
                compressor.keep_at_most(max_weights)
        if n_fine:
            compressor.finetune(task.train, epochs=n_fine, teacher=network, progress=not as_json)
        small, report = compressor.export(), compressor.report()
        summary = {
            "model": str(model),
            "data": task.name,
            "measured_on": task.measured_on,
            "support": support,
            "rule": rule,
            "temperature": compressor.settings.temperature,
            "support_temperature": support_temperature or compressor.settings.temperature,
            "max_loss_drop": compressor.settings.allowed_loss,
            "epochs": total,
            "seed": seed,
            **_measured("dense", network, task),
            **_measured("compressed", small, task),
            "dense_seconds": _seconds(network, task.test.x),
            "exported_seconds": _seconds(small, task.test.x),
            **report.to_dict(),
        }
    with bad_input("--out"):
        save_compressed(out / "run_length.safetensors", compressor.masked_model(), compressor.support())
        draw_masks(compressor.support(), out / "masks.png")
        written = ["masks.png", "run_length.safetensors"]
        problem = _save_program(small, task.test.x, out / "small_module.pt2")
    if problem:
        typer.echo(f"small_module.pt2 is not written: {problem}", err=True)
    else:
        written.append("small_module.pt2")
    if as_json:
        print_json(summary)
    else:
        _print(summary, report, task)
        typer.echo(f"wrote {', '.join(written)} to {out}")


def _is_trained(network: nn.Module, task: Task) -> bool:
    """Return whether a network knows the data already, so that it needs no dense training."""
    from isac_toolbox.nn.objective import Objective
    from isac_toolbox.nn.turbo_vbi.watch import is_trained

    return is_trained(Objective(task.loss), network, task.validation)


def _train_dense(
    network: nn.Module,
    task: Task,
    epochs: int,
    rate: float,
    seed: int,
    checkpoint: Path | None,
    resume: bool,
) -> None:
    """Train the whole network, or read it from the file beside the checkpoint of an interrupted run."""
    from isac_toolbox.nn import training
    from isac_toolbox.nn._posteriors import read_state, write_state

    if not epochs:
        return
    about = {"data": task.name, "epochs": epochs, "learning_rate": rate, "seed": seed}
    file = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.dense.safetensors")
    if file is not None and resume and file.exists():
        stored = read_state(file, _DENSE_FORMAT)
        if stored["about"] != about:
            raise ValueError(f"{file} belongs to another run: {stored['about']}, now {about}")
        try:
            network.load_state_dict(stored["network"])
        except RuntimeError as error:  # torch: names or shapes of the tensors differ
            raise ValueError(f"{file} does not fit the network: {error}") from None
        return
    training.train(network, task.train, epochs=epochs, learning_rate=rate, seed=seed, loss=task.loss)
    if file is not None:
        write_state(file, _DENSE_FORMAT, {"about": about, "network": network.state_dict()})


def _measured(name: str, model: nn.Module, task: Task) -> dict[str, float]:
    """Return loss and, of a classification, accuracy where the task measures."""
    from isac_toolbox.nn.objective import Objective

    loss, accuracy = Objective(task.loss).evaluate(model, task.test)
    quality = {f"{name}_test_loss": loss}
    return quality | {f"{name}_test_accuracy": accuracy} if task.is_classification else quality


def _seconds(model: nn.Module, x: Any, repeats: int = 20) -> float:
    """Return the median time of one batch of 256."""
    import torch

    batch = x[:256]
    times = []
    with torch.inference_mode():
        model(batch)
        for _ in range(repeats):
            start = time.perf_counter()
            model(batch)
            times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def _save_program(model: nn.Module, x: Any, path: Path) -> str:
    """Save the module as a program that ``torch.export.load`` reads without its Python class.

    Returns the reason if the module cannot be exported; empty if it is.
    """
    import torch

    from isac_toolbox.nn.export.inputs import quiet

    shapes = ({0: torch.export.Dim("batch")},)
    try:
        with quiet():
            program = torch.export.export(model.eval(), (x[:2],), dynamic_shapes=shapes)
    except Exception as error:  # which errors torch.export raises depends on the module
        return f"torch.export refuses the network ({type(error).__name__})"
    torch.export.save(program, path)
    return ""


def _print(summary: dict[str, Any], report: CompressionReport, task: Task) -> None:
    """Print the tables of the whole network and of its layers."""
    from rich.table import Table

    console = make_console()
    table = Table("", "dense", "compressed", title=f"{summary['model']} on {summary['data']}")
    kinds = ("accuracy", "loss") if task.is_classification else ("loss",)
    where = "test" if task.measured_on == TEST_SET else task.measured_on
    rows = [
        (f"{where} {kind}", *(f"{summary[f'{k}_test_{kind}']:.4f}" for k in ("dense", "compressed")))
        for kind in kinds
    ]
    rows += [
        ("weights", f"{report.n_weights:,}", f"{report.n_kept:,} (1/{report.compression:.1f})"),
        ("parameters", f"{report.n_parameters_dense:,}", f"{report.n_parameters:,}"),
        ("MACs, exported module", f"{report.macs_dense:,}", f"{report.macs:,}"),
        ("MACs, kept weights alone", f"{report.macs_dense:,}", f"{report.macs_kept:,}"),
        ("time of 256 examples, ms", *(f"{1e3 * summary[f'{k}_seconds']:.2f}" for k in _TIMED)),
    ]
    rows += [
        (f"kB as {k}", f"{report.bytes['dense'] / 1e3:.1f}", f"{v / 1e3:.1f}")
        for k, v in report.bytes.items()
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(layer_table(report))
