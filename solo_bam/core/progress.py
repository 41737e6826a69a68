"""Bars: drawn on a terminal, lines now and then in a log file, nothing in a pipe."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any, TextIO

from tqdm import tqdm

_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} passed, {remaining} left"
_SECONDS = 60.0  # between two lines


class Bar(tqdm):
    """tqdm's bar, of which a log file gets a line at the start, every minute and at the end."""

    def __init__(self, *args: Any, **options: Any):
        self.lines, self.begun = is_file(sys.stderr), False
        if self.lines:
            options |= {"bar_format": _LINE, "mininterval": _SECONDS, "maxinterval": _SECONDS, "leave": True}
        super().__init__(*args, **options, disable=False if self.lines else None)

    def display(self, *args: Any, **options: Any) -> Any:
        """Write a line instead of drawing over the last one; tqdm ends the last line itself."""
        if not self.lines:
            return super().display(*args, **options)
        self.fp.write("\n" * self.begun + str(self))
        self.fp.flush()
        self.begun = True
        return True


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, which draws bars."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def is_file(stream: TextIO) -> bool:
    """Whether what is printed there goes to a file."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # replaced by something that is none
        return False
