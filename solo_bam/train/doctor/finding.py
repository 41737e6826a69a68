"""A line of the doctor's page."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from solo_bam.core.errors import UserError

_TOPIC = 13  # characters
_STATUS = 9


@dataclass(frozen=True)
class Finding:
    """What was found about one topic, and what to do about it where it is not well.

    Attributes:
        status: ``failure`` where a run cannot start or would be wrong.
        topic: one or two words.
        text: what was found.
        remedy: what to do, an imperative; empty where all is well.
    """

    status: Literal["ok", "warning", "failure"]
    topic: str
    text: str
    remedy: str = ""

    @classmethod
    def of(cls, topic: str, error: UserError) -> Finding:
        """A mistake that the user can mend."""
        return cls("failure", topic, f"{error.key}: {error.problem}", error.remedy)


def page(title: str, findings: Sequence[Finding]) -> str:
    """Findings as aligned text, at most 100 columns wide."""
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    indent = " " * (_STATUS + _TOPIC)
    lines = [title]
    for finding in findings:
        text = f"{finding.text}: {finding.remedy}" if finding.remedy else finding.text
        head = f"{finding.status:<{_STATUS}}{finding.topic:<{_TOPIC}}"
        lines.append(
            textwrap.fill(
                head + text,
                width,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,  # paths can be copied
            )
        )
    return "\n".join(lines)
