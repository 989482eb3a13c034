"""The store of a sweep: one SQLite file, one committed row per point, trial and estimator."""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import ValidationError

from isac_toolbox.scenario import Scenario
from isac_toolbox.sweeps._plan import Plan, describe_estimator
from isac_toolbox.sweeps._rows import METRIC_NAMES, N_BINS, N_LEVELS, OK, Metrics, SweepRow

__all__ = ["RowKey", "Store", "StoreError", "StoredSweep", "read_store"]

RowKey = tuple[str, int, str]

SCHEMA = 2
_APPLICATION = 0x49534143  # "ISAC" in the file's header: tells a sweep's store from any other database
_BUSY_S = 30.0
# Checksums by table and key, as SQLite keeps none; rows that an earlier version wrote have none either.
_CHECKS = "CREATE TABLE IF NOT EXISTS checks (part TEXT PRIMARY KEY, crc INTEGER NOT NULL) WITHOUT ROWID"

_TYPES = {
    "float": "REAL",
    "int": "INTEGER",
    "bool": "INTEGER",
    "str": "TEXT",
    "Bins": "TEXT",
    "Levels": "TEXT",
}
_METRIC_TYPES = {f.name: str(f.type) for f in fields(Metrics)}
_FRONT = ("point", "trial", "estimator", "status", "error", "seconds", "cold")
_COLUMNS = (*_FRONT, *METRIC_NAMES)


class StoreError(OSError):
    """The store can no longer be written; what was committed is kept."""


class Store:
    """Rows of one sweep, kept in a file, or in memory without one.

    Only the process that runs the sweep writes. Every :meth:`add` is one transaction that is on the disk
    when it returns, so a kill at any moment loses what had not arrived.

    Parameters
    ----------
    path : path or None
    plan : Plan
        A new store takes its description; an old one must have the same.

    Raises
    ------
    ValueError
        If the file is no store, has another schema, or belongs to another sweep (the differences are named).
    OSError
        If it cannot be opened or written.
    """

    def __init__(self, path: str | Path | None, plan: Plan) -> None:
        self.path = None if path is None else Path(path)
        self._connection = _connect(self.path)
        try:
            with _readable_errors(self._name, OSError):
                _check_structure(self._connection, self._name)
                self._open(plan)
                self.rows: dict[RowKey, SweepRow] = dict(_read_rows(self._connection, self._name))
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def _name(self) -> str:
        return "the sweep" if self.path is None else str(self.path)

    def _open(self, plan: Plan) -> None:
        """Create or compare, in one transaction that also proves that the file can be written."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            new = _is_new(connection)
            if not new:
                _check_kind(connection, self._name)
            if not new and _has_rows(connection):
                _refuse_difference(connection, plan, self._name)
            else:
                _create(connection, plan)
            connection.execute(_CHECKS)
            _add_estimators(connection, plan)
            _set(connection, "last_run", datetime.now(UTC).isoformat(timespec="seconds"))

    def add(self, key: str, rows: Iterable[SweepRow]) -> None:
        """Commit rows of one point.

        Raises
        ------
        StoreError
            If the disk is full, or the file has gone or become read-only.
        """
        rows = list(rows)
        marks = ", ".join("?" * len(_COLUMNS))
        statement = f"INSERT OR REPLACE INTO trials ({', '.join(_COLUMNS)}) VALUES ({marks})"
        with _readable_errors(self._name, StoreError), self._connection:
            for row in rows:
                columns = _to_columns(key, row)
                self._connection.execute(statement, columns)
                _set_check(self._connection, _row_part(columns), columns)
        for row in rows:
            self.rows[key, row.trial, row.estimator] = row

    def forget_failures(self, names: Iterable[str]) -> None:
        """Drop failed rows of some estimators, so that they are run again."""
        wanted = set(names)
        failed = [k for k, row in self.rows.items() if row.failed and row.estimator in wanted]
        with _readable_errors(self._name, StoreError), self._connection:
            self._connection.executemany(
                "DELETE FROM trials WHERE point = ? AND trial = ? AND estimator = ?", failed
            )
            parts = [(_row_part(key),) for key in failed]
            self._connection.executemany("DELETE FROM checks WHERE part = ?", parts)
        for key in failed:
            del self.rows[key]


class StoredSweep:
    """Everything that a store holds."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        settings = _settings(connection, name)
        self.scenario = Scenario.model_validate(settings["scenario"])
        description = settings["description"]
        self.fields: tuple[str, ...] = tuple(_as(str, field) for field in description["vary"])
        self.seed: int = _as(int, description["seed"])
        self.version: str = _as(str, description["package_version"])
        self.rows: dict[RowKey, SweepRow] = dict(_read_rows(connection, name))


def read_store(path: str | Path) -> StoredSweep:
    """Read a store, also one that is being written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no store of a sweep, is damaged, or has another schema.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such sweep store: {source}")
    with _readable_errors(str(source), OSError):
        # writable where it can be: a store whose process was killed may have a commit to roll back
        uri = f"{source.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, timeout=_BUSY_S, uri=True)) as connection:
            _check_kind(connection, str(source))
            _check_structure(connection, str(source))
            return StoredSweep(connection, str(source))


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for the sweep store {path.name}")
    if path is not None and path.is_dir():
        raise IsADirectoryError(f"the sweep store {path} is a folder")
    with _readable_errors(str(path), OSError):
        connection = sqlite3.connect(":memory:" if path is None else path, timeout=_BUSY_S)
        # a row must survive a power cut as well; a rollback journal leaves no side files for readers
        connection.execute("PRAGMA synchronous = FULL")
    return connection


#: What values of a wrong kind raise.
_DAMAGES = (LookupError, TypeError, AttributeError, ArithmeticError)


@contextmanager
def _readable_errors(name: str, kind: type[OSError]) -> Iterator[None]:
    """Turn errors of SQLite into ones that name the file and say what they mean."""
    try:
        yield
    except sqlite3.OperationalError as error:
        kept = "; rows finished so far are kept" if kind is StoreError else ""
        raise kind(f"{name}: {error}{kept}") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{name} is not the store of a sweep: {error}") from None
    except (*_DAMAGES, json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError(f"{name} is damaged: {error!r}") from None
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"{name} is damaged: {error}") from None


def _check_structure(connection: sqlite3.Connection, name: str) -> None:
    """Refuse a file whose pages do not hang together."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise ValueError(f"{name} is damaged: {found}")


def _set_check(connection: sqlite3.Connection, part: str, values: Sequence[Any]) -> None:
    connection.execute("INSERT OR REPLACE INTO checks VALUES (?, ?)", (part, _crc(values)))


def _stored_checks(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the checksums by part; none of a store without their table."""
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checks'").fetchone()
    return dict(connection.execute("SELECT part, crc FROM checks")) if exists else {}


def _compare(checks: Mapping[str, int], part: str, values: Sequence[Any], store: str) -> None:
    """Refuse values that are not those that were written."""
    if checks.get(part, _crc(values)) != _crc(values):
        raise ValueError(f"{store} is damaged: the checksum of {part} is wrong")


def _crc(values: Sequence[Any]) -> int:
    """Return the CRC-32 of values, the same for those that go into SQLite and those that come out."""
    return zlib.crc32("\x1f".join(map(_plain, values)).encode("utf-8", "surrogatepass"))


def _plain(value: Any) -> str:
    """Return a value as text: NaN is kept as nothing, 3.0 may come back as 3, and -0.0 as 0."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return value if isinstance(value, str) else (float(value) + 0.0).hex()


def _row_part(columns: Sequence[Any]) -> str:
    point, trial, estimator = columns[:3]
    return f"trial {trial} of {estimator} at {point}"


def _is_new(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _has_rows(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM trials LIMIT 1").fetchone() is not None


def _check_kind(connection: sqlite3.Connection, name: str) -> None:
    """Refuse another program's database and another schema."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != _APPLICATION:
        raise ValueError(f"{name} is not the store of a sweep; give another file")
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if schema != SCHEMA:
        raise ValueError(f"{name} has schema {schema}, this version reads {SCHEMA}; give another file")


def _create(connection: sqlite3.Connection, plan: Plan) -> None:
    """Create tables, the description, and a view with the points' values as columns.

    A store without rows is made anew: a first call that was stopped at once commits to nothing.
    """
    connection.execute("DROP VIEW IF EXISTS results")
    for table in ("settings", "estimators", "trials", "checks"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute(_CHECKS)
    connection.execute("CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("CREATE TABLE estimators (name TEXT PRIMARY KEY, description TEXT NOT NULL)")
    metrics = ", ".join(f"{name} {_TYPES[kind]}" for name, kind in _METRIC_TYPES.items())
    connection.execute(
        "CREATE TABLE trials (point TEXT NOT NULL, trial INTEGER NOT NULL, estimator TEXT NOT NULL, "
        f"status TEXT NOT NULL, error TEXT NOT NULL, seconds REAL, cold INTEGER, {metrics}, "
        "PRIMARY KEY (point, trial, estimator))"
    )
    scenario = plan.scenario.model_dump(mode="json")
    content = json.dumps(plan.description()["scenario"], sort_keys=True)
    _set(connection, "description", plan.description())
    _set(connection, "scenario", scenario)
    _set(connection, "scenario_hash", hashlib.sha256(content.encode()).hexdigest())
    _set(connection, "package_version", plan.description()["package_version"])
    _set(connection, "seed", plan.seed)
    _set(connection, "made_with", {"python": platform.python_version(), "numpy": np.__version__})
    _create_view(connection, plan.fields)


def _create_view(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Create ``results``, the view for queries from other programs.

    The names in its text, as in the other statements, are those of fields and columns here; values are
    parameters everywhere.
    """
    values = [f"json_extract(point, '$.{name}') AS {name}" for name in names]
    columns = [name for name in _COLUMNS if name != "point"]
    shared = [
        f"(SELECT json_extract(value, '$') FROM settings WHERE name = '{name}') AS {name}"  # nosec B608
        for name in ("seed", "package_version", "scenario_hash")
    ]
    chosen = ", ".join([*values, *columns, *shared])
    connection.execute(f"CREATE VIEW results AS SELECT {chosen} FROM trials")  # nosec B608


def _set(connection: sqlite3.Connection, name: str, value: Any) -> None:
    _put(connection, "settings", name, value)


def _put(connection: sqlite3.Connection, table: str, name: str, value: Any) -> None:
    """Keep a value under a name, with its checksum."""
    text = json.dumps(value)
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, text))
    _set_check(connection, f"{table} {name}", (name, text))


def _get(connection: sqlite3.Connection, table: str, store: str) -> dict[str, Any]:
    """Return all values of a table by name, checked."""
    checks = _stored_checks(connection)
    found = {}
    for name, text in connection.execute(f"SELECT * FROM {table}"):  # nosec B608
        _compare(checks, f"{table} {name}", (name, text), store)
        found[name] = json.loads(text)
    return found


def _settings(connection: sqlite3.Connection, store: str) -> dict[str, Any]:
    return _get(connection, "settings", store)


def _refuse_difference(connection: sqlite3.Connection, plan: Plan, name: str) -> None:
    """Refuse a plan that differs from the description of the rows in the store."""
    before, now = _settings(connection, name)["description"], plan.description()
    differences = list(_differences(_without_varied(before, now), _without_varied(now, before)))
    known = _get(connection, "estimators", name)
    used = {label for (label,) in connection.execute("SELECT DISTINCT estimator FROM trials")}
    for label, estimator in plan.estimators.items():
        if label in used and label in known:
            differences += _differences(known[label], describe_estimator(estimator), f"estimator {label}: ")
    if differences:
        raise ValueError(
            f"{name} belongs to another sweep: {'; '.join(differences)}. "
            "Give another store, or the settings that it was made with"
        )


def _without_varied(description: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the other one varies: it has no single value there to compare with."""
    fixed = {name: v for name, v in description["scenario"].items() if name not in other["vary"]}
    return {**description, "scenario": fixed}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield ``name is old in the store and new now``, nested mappings entry by entry."""
    for name in [*before, *(n for n in now if n not in before)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != json.loads(json.dumps(new)):
            yield f"{prefix}{name} is {json.dumps(old)} in the store and {json.dumps(new)} now"


def _add_estimators(connection: sqlite3.Connection, plan: Plan) -> None:
    for name, estimator in plan.estimators.items():
        _put(connection, "estimators", name, describe_estimator(estimator))


def _to_columns(key: str, row: SweepRow) -> tuple[Any, ...]:
    """Return a row as SQLite keeps it; NaN becomes NULL."""
    front = (key, row.trial, row.estimator, row.status, row.error, row.seconds, row.cold)
    if row.metrics is None:
        return (*front, *(None for _ in METRIC_NAMES))
    values = [getattr(row.metrics, name) for name in METRIC_NAMES]
    return (*front, *(json.dumps(v) if isinstance(v, tuple) else v for v in values))


def _read_rows(connection: sqlite3.Connection, store: str) -> Iterator[tuple[RowKey, SweepRow]]:
    rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM trials").fetchall()  # nosec B608
    checks = _stored_checks(connection)  # after the rows: while a sweep writes, all that were read have one
    for values in rows:
        _compare(checks, _row_part(values), values, store)
        key, trial, estimator, status, error, seconds, cold = values[: len(_FRONT)]
        metrics = None
        if status == OK:
            pairs = zip(METRIC_NAMES, values[len(_FRONT) :])
            metrics = Metrics(**{name: _from_column(_METRIC_TYPES[name], value) for name, value in pairs})
        point = _as(dict, json.loads(key))
        seconds = _from_column("float", seconds)
        front = (_as(int, trial), _as(str, estimator), _as(str, status), _as(str, error), seconds)
        yield (key, trial, estimator), SweepRow(point, *front, bool(cold), metrics)


def _so_many(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Return the values; refuse another number of them."""
    if len(values) != count:
        raise ValueError(f"a row has {len(values)} bins, {count} are needed")
    return values


def _as(kind: type, value: Any) -> Any:
    """Return a value of a kind; refuse any other."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _from_column(kind: str, value: Any) -> Any:
    if kind == "Bins":
        bins = tuple((_as(int, n), float(p), _as(int, t)) for n, p, t in json.loads(value))
        return _so_many(bins, N_BINS)
    if kind == "Levels":
        return _so_many(tuple(_as(int, n) for n in json.loads(value)), N_LEVELS)
    if kind == "bool":
        return bool(value)
    if kind == "float":
        return float("nan") if value is None else float(value)
    return _as(int if kind == "int" else str, value)
