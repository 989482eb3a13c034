"""How a command fails: a message on stderr and an exit code, never a traceback for bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "Problem", "bad_input", "out_of_memory"]

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


class Problem(Exception):
    """A message on stderr and an exit code that end the command."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def out_of_memory(error: MemoryError) -> str:
    """Return what to say of sizes that do not fit into memory; some errors say nothing themselves."""
    return f"not enough memory for these sizes; {error}".rstrip("; ")


@contextmanager
def bad_input(option: str = "") -> Iterator[None]:
    """Turn errors of input into a message; ``option`` names where the input came from."""
    prefix = f"{option}: " if option else ""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Problem(f"{prefix}not a text file ({error.reason})") from None
    except MemoryError as error:
        raise Problem(f"{prefix}{out_of_memory(error)}") from None
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise Problem(f"{prefix}{text}") from None
    except (ValueError, TypeError) as error:
        raise Problem(f"{prefix}{str(error).removeprefix('scenario: ')}") from None
