"""Settings objects with changes of single fields, for both trainings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

__all__ = ["check_known", "settings_with"]

S = TypeVar("S")


def check_known(owner: str, given: Collection[str], allowed: Collection[str]) -> None:
    """Raise a TypeError that names settings which ``owner`` does not have."""
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise TypeError(f"{owner} has no setting {unknown}, only {sorted(allowed)}")


def settings_with(owner: str, kind: type[S], settings: S | None, changes: Mapping[str, Any]) -> S:
    """Return the given settings, or the defaults of ``kind``, with single fields changed.

    Raises
    ------
    TypeError
        If ``settings`` is not of ``kind``, or a change names a field that does not exist.
    """
    if settings is not None and not isinstance(settings, kind):
        raise TypeError(f"settings must be of {kind.__name__}, got {type(settings).__name__}")
    dataclass: Any = kind
    check_known(owner, changes, [field.name for field in fields(dataclass)])
    chosen: Any = dataclass() if settings is None else settings
    return replace(chosen, **changes)
