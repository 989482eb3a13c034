"""Run ``isac`` in this process and judge how it ends."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from isac_toolbox.cli import commands as cli
from isac_toolbox.cli.errors import BAD_INPUT, FAILED


def run(*words: str, code: int = 0):
    """Run ``isac`` in this process and check its exit code."""
    outcome = CliRunner().invoke(cli.app, [str(word) for word in words])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == code, outcome.output
    assert "Traceback" not in outcome.output
    return outcome


def fails(*words: str, code: int = 2) -> str:
    """Run, expect an error, give its message; stdout stays empty."""
    outcome = run(*words, code=code)
    assert outcome.stdout == ""
    message = outcome.stderr
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def ends_well(*words: str):
    """Run ``isac``; it succeeds, or says in one line why not, and JSON has no NaN. Return how it ended."""
    outcome = CliRunner().invoke(cli.app, list(words))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    lines = outcome.stderr.split("\n")
    errors = [line for line in lines if line.startswith("error: ")]
    assert outcome.exit_code in (0, BAD_INPUT, FAILED), outcome.output
    assert "Traceback" not in outcome.stderr and "RuntimeWarning" not in outcome.stderr
    if outcome.exit_code:
        assert errors == lines[-2:-1] and len(errors[0]) > len("error: ") + 10, outcome.stderr
    else:
        assert not errors, outcome.stderr
    if outcome.exit_code == 0 and "--json" in words and "--help" not in words:
        strict_json(outcome.stdout)
    return outcome


def strict_json(text: str):
    """Parse and refuse what strict JSON does not have."""

    def refuse(name: str):
        raise AssertionError(f"not strict JSON: {name}")

    return json.loads(text, parse_constant=refuse)
