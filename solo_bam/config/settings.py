"""``key=value`` settings of the commands that take no recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from omegaconf import OmegaConf
from pydantic import ValidationError

from solo_bam.config.recipe import _user_error
from solo_bam.config.schema import Section
from solo_bam.errors import UserError

Settings = TypeVar("Settings", bound=Section)


def parse_settings(model: type[Settings], words: Sequence[str]) -> Settings:
    """Checked settings from the command line's ``key=value`` words; dots lead into sections.

    Raises:
        UserError: a word that is no ``key=value``, or the first key at fault.
    """
    for word in words:
        if "=" not in word:
            raise UserError(word, "is not of the form key=value", "correct it")
    try:
        raw = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)), resolve=True)
    except Exception as error:  # YAML and OmegaConf refuse a value with exceptions of many kinds
        reason = " ".join(str(error).split())
        raise UserError(" ".join(words), f"cannot be read ({reason})", "quote the value") from None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _user_error(error, model) from None
