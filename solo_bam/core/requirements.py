"""Whether the packages that solo-bam needs are installed, and new enough.

pip sees to it, but not with ``--no-deps``, which adds solo-bam to an environment that is to stay as it is.
"""

from __future__ import annotations

from importlib import metadata

from solo_bam.core.errors import UserError


def check_requirements() -> None:
    """Refuse an environment that solo-bam cannot run in; nothing of it is imported.

    Raises:
        UserError: names every package that is missing or too old.
    """
    if unmet := _unmet():
        asked = " ".join(f"'{needed}'" for needed in unmet)
        problem = "needs " + ", ".join(f"{needed} ({found})" for needed, found in unmet.items())
        raise UserError("solo-bam", problem, f"pip install {asked}")


def _unmet() -> dict[str, str]:
    """requirement -> what is there instead."""
    from packaging.requirements import Requirement

    found = {}
    for declared in map(Requirement, _declared()):
        if declared.marker is None or declared.marker.evaluate({"extra": ""}):
            version = _installed(declared.name)
            if version is None or not declared.specifier.contains(version, prereleases=True):
                found[f"{declared.name}{declared.specifier}"] = f"{version or 'nothing'} is installed"
    return found


def _declared() -> list[str]:
    try:
        return metadata.requires("solo-bam") or []
    except metadata.PackageNotFoundError:  # a checkout on the path, which nobody installed
        return []


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
