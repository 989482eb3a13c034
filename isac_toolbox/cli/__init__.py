"""The command line ``isac``."""

from isac_toolbox.cli.commands import app, main

__all__ = ["app", "main"]
