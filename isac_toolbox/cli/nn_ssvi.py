"""The command ``isac nn ssvi``; nothing here imports torch before the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox._choices import LAYER_DENSITIES, REMOVALS
from isac_toolbox.cli.errors import bad_input
from isac_toolbox.cli.inputs import one_of
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
    layer_table,
    load_task,
    make_network,
    needs_extra,
)
from isac_toolbox.cli.outputs import compiling_notice, make_console, print_json

if TYPE_CHECKING:
    from isac_toolbox.nn.ssvi.classifier import SparseClassifier

__all__ = ["ssvi"]

_SAMPLES = 10
_QUALITIES = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "brier": "Brier score"}


def ssvi(
    model: ModelOption = ModelName.digits_mlp,
    data: DataOption = None,
    density: Annotated[float, typer.Option(help="Share of the weights that are active, in (0, 1].")] = 0.1,
    removal: Annotated[str, one_of(REMOVALS, "Score whose lowest weights are removed")] = "snr",
    layer_density: Annotated[str, one_of(LAYER_DENSITIES, "Density of each layer")] = "erk",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of either training.")] = None,
    update_interval: Annotated[
        int | None, typer.Option(min=1, help="Steps between changes of the support.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of support, weights, order and noise.")] = 0,
    dense: Annotated[bool, typer.Option(help="Train dense variational inference for comparison.")] = True,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")] = Path("ssvi"),
    data_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of Fashion-MNIST's idx files.")
    ] = None,
    checkpoint: CheckpointOption = None,
    resume: ResumeOption = False,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a Bayesian network that is sparse from the start, and show its quality and cost."""
    with needs_extra():
        from isac_toolbox.nn import save_compressed
        from isac_toolbox.nn.ssvi.baselines import DenseVI
        from isac_toolbox.nn.ssvi.classifier import SSVI
    with bad_input("--out"):
        out.mkdir(parents=True, exist_ok=True)
    with bad_input("--checkpoint"):
        check_checkpoint(checkpoint, resume)
    with bad_input("--data"):
        task = load_task(model, data, data_folder, seed)
        if not task.is_classification or task.train.y.ndim != 1:
            raise ValueError("ssvi measures classifications: y_train must hold a whole number per example")
    with bad_input("--model"):
        network = make_network(model, task, seed)
    total = epochs or (60 if task.is_small else 20)
    with bad_input("--density"):
        fitted = SSVI(
            network,
            density,
            removal,
            "structured" if removal == "structured" else "gradient",
            layer_density=layer_density,
            update_interval=update_interval or (20 if task.is_small else 100),
            seed=seed,
        )
    methods: dict[str, SparseClassifier] = {"ssvi": fitted}
    if dense:
        methods["dense_vi"] = DenseVI(network, seed=seed)
    with fitting_threads(task, threads), compiling_notice(as_json):
        for name, method in methods.items():
            with bad_input():
                method.fit(
                    task.train,
                    task.validation,
                    epochs=total,
                    checkpoint=_file_of(name, checkpoint),
                    resume=resume,
                    progress=not as_json,
                )
        summary: dict[str, Any] = {
            "model": str(model),
            "data": task.name,
            "measured_on": task.measured_on,
            "density": fitted.density,
            "removal": removal,
            "layer_density": layer_density,
            "epochs": total,
            "seed": seed,
            **{name: _measured(method, task.test) for name, method in methods.items()},
        }
    with bad_input("--out"):
        plain = fitted.mean_model()
        save_compressed(out / "mean_network.safetensors", plain, fitted.support())
        draw_masks(fitted.support(), out / "masks.png")
    if as_json:
        print_json(summary)
    else:
        _print(summary, fitted, task)
        typer.echo(f"wrote masks.png and mean_network.safetensors to {out}")


def _file_of(method: str, checkpoint: Path | None) -> Path | None:
    """Return the checkpoint of a method; that of dense training is beside the other."""
    if checkpoint is None or method == "ssvi":
        return checkpoint
    return checkpoint.with_name(f"{checkpoint.name}.{method}")


def _measured(method: SparseClassifier, test: Any) -> dict[str, Any]:
    """Return the quality on the test set and the cost of training."""
    report = method.report()
    return {
        "test": method.evaluate(test),
        "test_sampled": method.evaluate(test, _SAMPLES),
        "active_weights": report.n_kept,
        "training_flops": report.training_flops,
        "training_state_bytes": report.state_bytes["total"],
        "seconds": sum(record.seconds for record in method.history),
    }


def _print(summary: dict[str, Any], fitted: SparseClassifier, task: Task) -> None:
    """Print the tables of the methods and of the layers."""
    from rich.table import Table

    console = make_console()
    names = {"ssvi": f"SSVI, density {summary['density']:.3g}", "dense_vi": "dense VI"}
    shown = {label: summary[name] for name, label in names.items() if name in summary}
    table = Table("", *shown, title=f"{summary['model']} on {summary['data']}")
    where = "test" if task.measured_on == TEST_SET else task.measured_on
    rows: list[tuple[str, Any]] = [
        (f"{where} {name}, {network}", _quality(part, key))
        for key, name in _QUALITIES.items()
        for part, network in (("test", "mean network"), ("test_sampled", f"{_SAMPLES} draws"))
    ]
    rows += [
        ("active weights", lambda m: f"{m['active_weights']:,}"),
        ("training FLOPs", lambda m: f"{m['training_flops']:.3g}"),
        ("training state, kB", lambda m: f"{m['training_state_bytes'] / 1e3:,.1f}"),
        ("time of training, s", lambda m: f"{m['seconds']:.1f}"),
    ]
    for name, cell in rows:
        table.add_row(name, *(cell(method) for method in shown.values()))
    console.print(table)
    console.print(layer_table(fitted.report()))


def _quality(part: str, key: str) -> Any:
    return lambda method: f"{method[part][key]:.4f}"
