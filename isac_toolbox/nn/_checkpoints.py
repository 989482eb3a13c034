"""Files from which an interrupted fit continues.

They hold what ``state`` of a trainer returns and ``restore`` takes. Reading runs no code of the file.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from isac_toolbox._files import check_size, replacing
from isac_toolbox._progress import epoch_progress

__all__ = ["Checkpoint", "run_epochs"]


class Resumable(Protocol):
    """A fit whose state can be stored."""

    history: list[Any]

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` takes."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a stored state."""
        ...


def run_epochs(
    fit: Resumable,
    run_epoch: Callable[[int], Any],
    epochs: int,
    loader: Any,
    *,
    file: Checkpoint | None,
    resume: bool,
    callback: Callable[[Any], Any] | None,
    progress: bool,
) -> None:
    """Run the epochs that are left, and store the state after each.

    Parameters
    ----------
    fit : Resumable
        Its history gets the record of every epoch.
    run_epoch : callable
        Runs the epoch of the given number and returns its record.
    epochs : int
        Number of epochs, those of an interrupted run included.
    loader : iterable
        Batches; the state of its generator is stored too.
    file : Checkpoint, optional
        Written after every epoch.
    resume : bool
        Whether to continue from ``file`` if it exists.
    callback : callable, optional
        Called with every record; a true return value stops the run.
    progress : bool
        Whether to show progress.
    """
    if file is not None and resume:
        file.resume(fit.restore, loader)
    first = len(fit.history)
    with epoch_progress(progress, epochs, first) as show:
        for epoch in range(first, epochs):
            record = run_epoch(epoch)
            fit.history.append(record)
            show(record)
            if file is not None:
                file.write(fit.state(), loader)
            if callback is not None and callback(record):
                break


@dataclass(frozen=True)
class Checkpoint:
    """File that a fit rewrites after every epoch.

    Attributes
    ----------
    path : Path
        Path of the file.
    format_name : str
        Name and number of the format, which the file must have.
    content : str
        Content in words, for messages.
    settings : dict
        Settings that the stored run must have.
    """

    path: Path
    format_name: str
    content: str
    settings: dict[str, Any]

    @classmethod
    def from_arguments(
        cls, path: str | Path | None, resume: bool, format_name: str, content: str, settings: dict[str, Any]
    ) -> Checkpoint | None:
        """Return the checkpoint that the arguments of a fit name, None without a path.

        Raises
        ------
        ValueError
            If ``resume`` is true without a path.
        """
        if path is not None:
            return cls(Path(path), format_name, content, settings)
        if resume:
            raise ValueError("resume=True needs the path of a checkpoint, got checkpoint=None")
        return None

    def write(self, state: dict[str, Any], loader: Any) -> None:
        """Write a state and that of the loader's generator; if this fails, the old file remains."""
        generator = _generator_of(loader)
        about = {
            "format": self.format_name,
            "settings": self.settings,
            "loader_generator": None if generator is None else generator.get_state(),
        }
        with replacing(self.path) as part:
            torch.save(about | state, part)

    def resume(self, restore: Callable[[dict[str, Any]], None], loader: Any) -> None:
        """Call ``restore`` with the stored state and restore the loader's generator, if there is a file.

        Raises
        ------
        ValueError
            If the file is damaged, of another format, or of other settings or another model.
        """
        if not self.path.exists():
            return
        state = self._read()
        try:
            restore(state)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            # names or shapes of the tensors differ
            raise ValueError(f"checkpoint {self.path} belongs to another model: {error}") from None
        generator = _generator_of(loader)
        if generator is not None and state.get("loader_generator") is not None:
            generator.set_state(state["loader_generator"])

    def _read(self) -> dict[str, Any]:
        """Return the stored state, checked."""
        damage = _damage(self.path)
        if damage:
            raise ValueError(f"checkpoint {self.path} cannot be read: {damage}")
        try:
            state = torch.load(self.path, weights_only=True)
        except Exception as error:  # whatever the reader stumbles over
            raise ValueError(f"checkpoint {self.path} cannot be read: {error}") from None
        if not isinstance(state, dict) or state.get("format") != self.format_name:
            raise ValueError(f"checkpoint {self.path} is not a checkpoint of {self.content}")
        stored = state.get("settings", {})
        different = [name for name, value in self.settings.items() if stored.get(name) != value]
        if different:
            text = ", ".join(f"{n} = {self.settings[n]!r} (file: {stored.get(n)!r})" for n in different)
            raise ValueError(f"checkpoint {self.path} belongs to other settings: {text}")
        return state


def _damage(path: Path) -> str:
    """Return what is wrong with the bytes of a file; torch does not compare its checksums."""
    check_size(path, path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
        return str(error)
    return f"the checksum of {bad} is wrong" if bad else ""


def _generator_of(loader: Any) -> torch.Generator | None:
    """Return the generator with which a loader shuffles, if it has one."""
    generator = getattr(loader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None
