"""A Ctrl-C that arrives as another error."""

from __future__ import annotations

__all__ = ["raise_interrupt"]


def raise_interrupt(error: BaseException) -> None:
    """Raise the Ctrl-C behind an error, if there is one: Numba makes a ``SystemError`` of it.

    Raises
    ------
    KeyboardInterrupt
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        cause = cause.__cause__ or cause.__context__
