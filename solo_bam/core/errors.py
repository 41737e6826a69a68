"""Errors that a user can mend: one line, exit code 2."""

from __future__ import annotations

import re
import warnings


class UserError(ValueError):
    """Something in a recipe, a file or the machine that the user can put right.

    Args:
        key: the dotted recipe key or the option at fault, e.g. ``optimizer.lr``.
        problem: what is wrong and what is allowed, e.g. ``got -1, allowed: above 0``.
        remedy: what to do, an imperative.

    An error of a loader process is raised again by torch as ``UserError(traceback)``, and unpickled as
    ``UserError(message)``: a single argument is taken for a text whose last line is the message.
    """

    exit_code = 2
    on_all_processes = False  # whether every process of the run raises it at the same step

    def __init__(self, key: str, problem: str | None = None, remedy: str = ""):
        if problem is None:
            key, problem, remedy = _parse(key)
        self.key, self.problem, self.remedy = key, problem, remedy
        super().__init__(printable(f"{key}: {problem}; {remedy}".replace("\n", " ")))


class SoloBamWarning(UserWarning):
    """Something that the user should know, and that stops nothing."""


class Stopped(UserError):
    """The run was told to stop, and has been saved.

    Args:
        problem: by what, and where it was saved.
        number: the signal; the exit code is 128 and it, as shells have it.
        remedy: how to go on.
    """

    on_all_processes = True

    def __init__(self, problem: str, number: int, remedy: str = "continue with --resume"):
        super().__init__("solo-bam", problem, remedy)
        self.exit_code = 128 + number


def _parse(text: str) -> tuple[str, str, str]:
    """Key, problem and remedy of the message that a text ends with."""
    message = re.sub(r"^[\w.]*UserError: ", "", text.rstrip("\n").split("\n")[-1])
    key, _, rest = message.partition(": ")
    problem, _, remedy = rest.rpartition("; ")
    return key, problem, remedy


def printable(text: str) -> str:
    """A text with everything that a terminal might obey, or cannot show, spelled out (``\\n``, ``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, allowed: object) -> str:
    """`` (did you mean …?)`` where a name is close to an allowed one, else nothing."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=3)  # type: ignore[attr-defined]
    close.sort(key=lambda one: sorted(one) != sorted(str(name)))  # letters that changed places first
    return f" (did you mean {close[0]}?)" if close else ""


def warn(text: str, category: type[SoloBamWarning] = SoloBamWarning) -> None:
    """On the first process, in one line without the place in the code."""
    from lightning.pytorch.utilities import rank_zero_warn

    ordinary = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        rank_zero_warn(text, category=category)
    finally:
        warnings.formatwarning = ordinary
