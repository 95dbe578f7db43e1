"""Errors in the user's input: one line on stderr and exit status 2."""

from __future__ import annotations

import sys
from typing import NoReturn


class DataError(ValueError):
    """Something is wrong with the user's data; the message says what and where, in one line."""


def fail(message: object) -> NoReturn:
    """Print one line to stderr and exit with status 2."""
    print(f"indeed: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def fail_on(error: DataError) -> NoReturn:
    """:func:`fail` with the message of ``error``, which a process that loads data hands on inside a traceback."""
    fail(str(error).strip().rpartition("\n")[2].rpartition("DataError: ")[2])
