"""A table of the epochs of a fit, written while it runs."""

from __future__ import annotations

import csv
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

__all__ = ["CSVLog"]


class CSVLog:
    """Callback that writes the record of every epoch as a row of a CSV file.

    It goes into ``callback=`` of ``TurboVBICompressor.fit`` and ``.finetune``, of ``compress`` and of
    ``SSVI.fit``. The file is complete after every epoch. The columns are the fields of the first record;
    several numbers in one field, such as ``neurons``, are joined by spaces.

    Parameters
    ----------
    path : path
        The file; its folder must exist.
    append : bool
        Whether rows are added to a file that exists, as after a resumed fit; else it is replaced.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from isac_toolbox.nn import CSVLog, SSVI, TensorLoader, load_digits_split
    >>> from isac_toolbox.nn.models import mlp
    >>> loader = TensorLoader.from_dataset(load_digits_split(seed=0)[0], batch_size=128)
    >>> table = Path(mkdtemp()) / "epochs.csv"
    >>> _ = SSVI(mlp(64, (32,), 10)).fit(loader, epochs=2, callback=CSVLog(table))
    >>> table.read_text()[:19], len(table.read_text().splitlines())
    ('epoch,loss,accuracy', 3)
    """

    def __init__(self, path: str | Path, *, append: bool = False) -> None:
        self.path, self._columns = Path(path), list[str]()
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"no such folder: {self.path.parent}")
        if append and self.path.exists():
            with self.path.open(newline="") as file:
                self._columns = next(csv.reader(file), [])

    def __call__(self, record: Any) -> None:
        """Write a row.

        Raises
        ------
        TypeError
            If the record is no dataclass.
        ValueError
            If its fields are not the columns of the file.
        """
        if not is_dataclass(record) or isinstance(record, type):
            raise TypeError(f"record must be the record of an epoch, got {type(record).__name__}")
        row = asdict(record)
        first = not self._columns
        self._columns = self._columns or list(row)
        if self._columns != list(row):
            raise ValueError(f"{self.path} has the columns {self._columns}, got a record of {list(row)}")
        with self.path.open("w" if first else "a", newline="") as file:
            writer = csv.writer(file)
            if first:
                writer.writerow(self._columns)
            writer.writerow(_cell(value) for value in row.values())


def _cell(value: Any) -> Any:
    """Return a value as one cell."""
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
