"""The commands ``isac nn``; nothing here imports torch before a command runs."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox.cli.inputs import Problem, bad_input, make_console, print_json
from isac_toolbox.cli.nn_shared import DataName, ModelName
from isac_toolbox.cli.nn_ssvi import ssvi

if TYPE_CHECKING:
    from torch import nn

    from isac_toolbox.nn.data import TensorLoader
    from isac_toolbox.nn.export.report import CompressionReport

__all__ = ["app"]

app = typer.Typer(help="Neural networks with the same engine (needs isac_toolbox[nn]).", no_args_is_help=True)

app.command()(ssvi)

_BATCH = 256
_DENSE, _FINETUNE = 1 / 3, 1 / 4


class SupportName(StrEnum):
    """Support graphs."""

    chain = "chain"
    independent = "independent"


class RuleName(StrEnum):
    """Update rules of the sparse prior."""

    extrinsic = "extrinsic"
    structured = "structured"
    mean_field = "mean_field"


@app.callback()
def _root() -> None:
    """Neural networks with the same engine."""


@app.command()
def compress(
    model: Annotated[ModelName, typer.Option(help="Network.")] = ModelName.digits_mlp,
    data: Annotated[DataName | None, typer.Option(help="Data set; digits for digits-mlp.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=12, help="Epochs altogether: dense, compression, fine-tuning.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=1e-6, help="Temperature of the KL term: higher keeps fewer weights.")
    ] = None,
    support_temperature: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Temperature of the support alone: prunes without noise on what stays."),
    ] = None,
    max_weights: Annotated[
        int | None, typer.Option(min=1, help="Budget: the least certain weights beyond it go as well.")
    ] = None,
    support: Annotated[SupportName, typer.Option(help="Support graph.")] = SupportName.chain,
    rule: Annotated[RuleName, typer.Option(help="Update rule of the sparse prior.")] = RuleName.extrinsic,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and noise.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")] = Path("compressed"),
    data_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the idx files.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a network, compress it, and write the smaller network and a picture of its masks."""
    try:
        import torch

        from isac_toolbox.nn import TurboVBICompressor, save_compressed, training
    except ImportError as error:
        raise Problem(str(error)) from None
    chosen = data or (DataName.digits if model is ModelName.digits_mlp else DataName.fashion_mnist)
    if chosen is DataName.digits:
        torch.set_num_threads(1)  # the layers are too small to share out
    total = epochs or (120 if chosen is DataName.digits else 40)
    heat = temperature or (0.15 if chosen is DataName.digits else 0.4)
    with bad_input("--out"):
        out.mkdir(parents=True, exist_ok=True)
    with bad_input("--data"):
        train_set, validation, test = _loaders(chosen, model, data_folder, seed)
    with bad_input("--model"):
        network = _network(model, train_set, seed)
    n_dense, n_fine = round(_DENSE * total), round(_FINETUNE * total)
    rate = 2e-3 if chosen is DataName.digits else 1e-3
    if not as_json:
        phases = f"{n_dense} dense, {total - n_dense - n_fine} compressing, {n_fine} fine-tuning epochs"
        typer.echo(f"{model} on {chosen}: {phases}")
    training.train(network, train_set, epochs=n_dense, learning_rate=rate, seed=seed)
    compressor = TurboVBICompressor(
        network,
        temperature=heat,
        temperature_start=min(0.05, heat),
        support_temperature=support_temperature,
        support=str(support),
        rule=str(rule),
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
        "support": str(support),
        "rule": str(rule),
        "temperature": heat,
        "support_temperature": support_temperature or heat,
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
        _draw_masks(compressor.support(), out / "masks.png")
    if as_json:
        print_json(summary)
    else:
        _print(summary, report)
        typer.echo(f"wrote masks.png, run_length.safetensors and small_module.pt2 to {out}")


def _loaders(
    data: DataName, model: ModelName, folder: Path | None, seed: int
) -> tuple[TensorLoader, TensorLoader, TensorLoader]:
    """Training, validation and test batches."""
    from isac_toolbox.nn import TensorLoader, load_digits_split, load_fashion_mnist

    if data is DataName.digits:
        if model is ModelName.lenet_5:
            raise ValueError("the digits are 8 x 8 pixels, too small for lenet-5; give --data fashion-mnist")
        parts: list[Any] = [s.tensors for s in load_digits_split(0)]
    else:
        flat = model is not ModelName.lenet_5
        images, labels = load_fashion_mnist(folder, "train", flat).tensors
        last = load_fashion_mnist(folder, "test", flat).tensors
        parts = [(images[:-5000], labels[:-5000]), (images[-5000:], labels[-5000:]), last]
    batch = 64 if data is DataName.digits else _BATCH
    (x, y), (x_val, y_val), (x_test, y_test) = parts
    return (
        TensorLoader(x, y, batch_size=batch, seed=seed),
        TensorLoader(x_val, y_val, batch_size=1000, shuffle=False),
        TensorLoader(x_test, y_test, batch_size=1000, shuffle=False),
    )


def _network(model: ModelName, loader: TensorLoader, seed: int) -> nn.Module:
    """A network with weights drawn from the seed."""
    import torch

    from isac_toolbox.nn import models

    n_inputs = loader.x[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model is ModelName.lenet_5:
            return models.lenet_5()
        hidden = (300, 100) if model is ModelName.lenet_300_100 else (64, 32)
        return models.mlp(n_inputs, hidden, 10)


def _seconds(model: nn.Module, x: Any, repeats: int = 20) -> float:
    """Median time of one batch of 256."""
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
    """The module as a program that `torch.export.load` reads without its Python class."""
    import torch

    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model.eval(), (x[:2],), dynamic_shapes=shapes), path)


def _print(summary: dict[str, Any], report: CompressionReport) -> None:
    """Tables of the whole and of the layers."""
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
    layers = Table("layer", "density", "neurons kept", "mean run")
    for layer in report.layers:
        kept = f"{layer.neurons_kept} of {layer.neurons}"
        layers.add_row(layer.name, f"{layer.density:.4f}", kept, f"{layer.mean_run:.1f}")
    console.print(layers)


def _draw_masks(masks: dict[str, Any], path: Path) -> None:
    """One panel per layer: rows are neurons or filters."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(masks), 1, figsize=(8, 2.6 * len(masks)), squeeze=False)
    for axis, (name, mask) in zip(axes[:, 0], masks.items()):
        rows = mask.numpy(force=True).reshape(len(mask), -1)
        axis.imshow(rows, aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
        axis.set(title=f"{name}: {rows.mean():.1%} kept (black)", xlabel="input", ylabel="neuron")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
