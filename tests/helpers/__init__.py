"""What several test files share; no test imports a test."""

from pathlib import Path

#: Folder of the tests, and of the repository around it.
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
