"""``key=value`` words of a command line: Hydra's grammar, and plain text where that has no word for a value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from solo_bam.core.errors import UserError

_WORD = re.compile(r"(?P<key>\+{0,2}[A-Za-z_][A-Za-z0-9_./@:-]*)=(?P<value>.*)", re.DOTALL)


def parse_overrides(words: Sequence[str]) -> list[Any]:
    """Hydra's overrides.

    A value that its grammar does not take (``data.train_path=/home/müller/new (1)``) is text as it stands; several
    values (``k=1,5``), which Hydra would run one after another, are a list.

    Raises:
        UserError: a word that is no ``key=value``.
    """
    return [_parse(word) for word in words]


def _parse(word: str) -> Any:
    parser = OverridesParser.create()
    found = _WORD.fullmatch(word)
    if found is None and not word.startswith("~"):  # Hydra's word for removing a key
        raise UserError(word, "is not of the form key=value", "correct it")
    try:
        override = parser.parse_override(word)
        if found is not None and override.is_sweep_override():
            return parser.parse_override(f"{found['key']}=[{found['value']}]")
    except HydraException:
        if found is None:
            raise UserError(word, "is not of the form ~key", "correct it") from None
        return parser.parse_override(f"{found['key']}={_quoted(found['value'])}")
    return override


def _quoted(text: str) -> str:
    """In single quotes of Hydra's grammar, in which a backslash escapes quotes and backslashes before one alone."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
