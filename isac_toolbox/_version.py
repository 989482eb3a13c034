"""The version: a file that everyone may import, and that the package is built with."""

__version__ = "0.1.0"
