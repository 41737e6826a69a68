"""``key=value`` words of a command line: Hydra's grammar, and plain text where that has no word for a value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from solo_bam.core.errors import UserError

_PLAIN = re.compile(r"[A-Za-z_/][\w/.+-]*")
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


def override_lines(keys: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested sections as Hydra's ``section.key=value``.

    Raises:
        UserError: a value that is neither a number, a text, None, nor a list or dictionary of these.
    """
    lines = []
    for key, value in keys.items():
        if isinstance(value, Mapping) and value:
            lines += override_lines(value, f"{prefix}{key}.")
            continue
        try:
            lines.append(f"{prefix}{key}={quoted(value)}")
        except (TypeError, ValueError):
            raise UserError(
                f"{prefix}{key}", f"got {value!r}", "give a number, a text, a list or a dictionary"
            ) from None
    return lines


def quoted(value: Any) -> str:
    """A plain value in Hydra's grammar.

    Raises:
        TypeError: it is another object.
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if not isinstance(value, str | Path):
        return json.dumps(value)
    text = str(value)
    is_word = _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf")
    return text if is_word else _quoted(text)
