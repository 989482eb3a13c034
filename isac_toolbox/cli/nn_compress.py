"""The command ``isac nn compress``; nothing here imports torch before it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox._choices import RULES, SUPPORTS
from isac_toolbox.cli.errors import bad_input
from isac_toolbox.cli.inputs import one_of
from isac_toolbox.cli.nn_shared import (
    DataName,
    ModelName,
    draw_masks,
    fitting_threads,
    layer_table,
    load_data,
    make_network,
    needs_extra,
)
from isac_toolbox.cli.outputs import compiling_notice, make_console, print_json

if TYPE_CHECKING:
    from torch import nn

    from isac_toolbox.nn.export.report import CompressionReport

__all__ = ["compress"]

_DENSE, _FINETUNE = 1 / 3, 1 / 4


def compress(
    model: Annotated[ModelName, typer.Option(help="Network.")] = ModelName.digits_mlp,
    data: Annotated[
        DataName | None, typer.Option(help="Data set; by default digits for digits-mlp, else fashion-mnist.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=12, help="Epochs of dense training, compression and fine-tuning together."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=1e-6, help="Temperature of the KL term: higher keeps fewer weights.")
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a network, compress it, and write the smaller network and a picture of its masks."""
    with needs_extra():
        from isac_toolbox.nn import TurboVBICompressor, save_compressed, training
    chosen = data or (DataName.digits if model is ModelName.digits_mlp else DataName.fashion_mnist)
    total = epochs or (120 if chosen is DataName.digits else 40)
    temperature = temperature or (0.15 if chosen is DataName.digits else 0.4)
    with bad_input("--out"):
        out.mkdir(parents=True, exist_ok=True)
    with bad_input("--data"):
        train_set, validation, test = load_data(chosen, model, data_folder, seed)
    with bad_input("--model"):
        network = make_network(model, train_set, seed)
    n_dense, n_fine = round(_DENSE * total), round(_FINETUNE * total)
    rate = 2e-3 if chosen is DataName.digits else 1e-3
    if not as_json:
        phases = f"{n_dense} dense, {total - n_dense - n_fine} compressing, {n_fine} fine-tuning epochs"
        typer.echo(f"{model} on {chosen}: {phases}")
    with fitting_threads(chosen), compiling_notice(as_json):
        training.train(network, train_set, epochs=n_dense, learning_rate=rate, seed=seed)
        compressor = TurboVBICompressor(
            network,
            temperature=temperature,
            temperature_start=min(0.05, temperature),
            support_temperature=support_temperature,
            support=support,
            rule=rule,
            warmup_epochs=2,
            learning_rate=rate,
            seed=seed,
        )
        compressor.fit(
            train_set, validation, epochs=total - n_dense - n_fine, teacher=network, progress=not as_json
        )
        if max_weights is not None:
            compressor.keep_at_most(max_weights)
        compressor.finetune(train_set, epochs=n_fine, teacher=network, progress=not as_json)
        small, report = compressor.export(), compressor.report()
        summary = {
            "model": str(model),
            "data": str(chosen),
            "support": support,
            "rule": rule,
            "temperature": temperature,
            "support_temperature": support_temperature or temperature,
            "epochs": total,
            "seed": seed,
            "dense_test_accuracy": training.accuracy(network, test),
            "compressed_test_accuracy": training.accuracy(small, test),
            "dense_seconds": _seconds(network, test.x),
            "exported_seconds": _seconds(small, test.x),
            **report.to_dict(),
        }
    with bad_input("--out"):
        save_compressed(out / "run_length.safetensors", compressor.masked_model(), compressor.support())
        _save_program(small, test.x, out / "small_module.pt2")
        draw_masks(compressor.support(), out / "masks.png")
    if as_json:
        print_json(summary)
    else:
        _print(summary, report)
        typer.echo(f"wrote masks.png, run_length.safetensors and small_module.pt2 to {out}")


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


def _save_program(model: nn.Module, x: Any, path: Path) -> None:
    """Save the module as a program that ``torch.export.load`` reads without its Python class."""
    import torch

    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model.eval(), (x[:2],), dynamic_shapes=shapes), path)


def _print(summary: dict[str, Any], report: CompressionReport) -> None:
    """Print the tables of the whole network and of its layers."""
    from rich.table import Table

    console = make_console()
    table = Table("", "dense", "compressed", title=f"{summary['model']} on {summary['data']}")
    rows = [
        ("test accuracy", *(f"{summary[f'{k}_test_accuracy']:.4f}" for k in ("dense", "compressed"))),
        ("weights", f"{report.n_weights:,}", f"{report.n_kept:,} (1/{report.compression:.1f})"),
        ("parameters", f"{report.n_parameters_dense:,}", f"{report.n_parameters:,}"),
        ("MACs, exported module", f"{report.macs_dense:,}", f"{report.macs:,}"),
        ("MACs, kept weights alone", f"{report.macs_dense:,}", f"{report.macs_kept:,}"),
        ("time of 256 images, ms", *(f"{1e3 * summary[f'{k}_seconds']:.2f}" for k in ("dense", "exported"))),
    ]
    rows += [
        (f"kB as {k}", f"{report.bytes['dense'] / 1e3:.1f}", f"{v / 1e3:.1f}")
        for k, v in report.bytes.items()
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(layer_table(report))
