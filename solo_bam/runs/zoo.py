"""The zoo: checkpoints with everything that is known of them, listed in ``zoo/index.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict

from solo_bam.core.errors import UserError, nearest
from solo_bam.core.files import sha256
from solo_bam.runs.records import Record


class Accuracy(Record):
    """A number, and who measured it.

    Attributes:
        re_measured: by solo-bam, on this file.
        stated_by: who says so, where it was not.
    """

    re_measured: bool
    stated_by: str | None = None


class File(BaseModel):
    """Attributes:
    where: an address, or a path within the zoo's folder.
    holds: what is in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: str
    holds: str

    @property
    def kept(self) -> bool:
        """Whether it lies in the zoo's folder."""
        return "://" not in self.where


class Entry(BaseModel):
    """A checkpoint; None is what nobody has told.

    Attributes:
        recipe: a shipped one, to which ``command`` may add settings.
        command: that makes it, or that makes a run of the downloaded file.
        sha256: of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    method: str
    backbone: str
    data: str
    epochs: int
    seeds: list[int]
    accuracies: list[Accuracy]
    recipe: str
    command: str
    hardware: str | None
    date: str | None
    versions: dict[str, str] | None
    sha256: str | None
    file: File

    @property
    def path(self) -> Path:
        """Of a file that is kept in the zoo.

        Raises:
            UserError: it is kept elsewhere, is missing, or is not the one that the index means.
        """
        if not self.file.kept:
            problem = f"{self.name} is not kept here"
            raise UserError("NAME", problem, f"download {self.file.where} and run: {self.command}")
        path = zoo_folder() / self.file.where
        if not path.is_file():
            raise UserError("NAME", f"{path} is missing", "take it from the repository; a package leaves it out")
        if sha256(path) != self.sha256:
            raise UserError(
                "NAME", f"{path} has another SHA-256 than the index says", "take it from the repository again"
            )
        return path

    @property
    def told(self) -> str:
        """Its numbers in a line."""
        return "; ".join(f"{told(one)} ({'measured here' if one.re_measured else 'stated'})" for one in self.accuracies)


def told(accuracy: Accuracy) -> str:
    """``k-NN 97.5 % on digits val``."""
    return f"{accuracy.protocol.kind} {accuracy.value:.1f} {accuracy.unit} on {accuracy.data}"


def zoo_folder() -> Path:
    """Beside the package, or in it where it is installed.

    Raises:
        UserError: it is not there.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "zoo_index", package.parent / "zoo"):
        if (folder / "index.yaml").is_file():
            return folder
    raise UserError("zoo", "the index is not installed", "install solo-bam again")


def entries() -> list[Entry]:
    """All of them, in the index's order."""
    content = OmegaConf.to_container(OmegaConf.load(zoo_folder() / "index.yaml"))
    assert isinstance(content, list)
    return [Entry.model_validate(raw) for raw in content]


def entry(name: str) -> Entry:
    """One of them.

    Raises:
        UserError: there is no such entry.
    """
    found = {one.name: one for one in entries()}
    if name not in found:
        raise UserError("NAME", f"got {name!r}{nearest(name, found)}, allowed: {', '.join(found)}", "correct it")
    return found[name]


def table(shown: Sequence[Entry]) -> str:
    """The Markdown table of ``zoo/README.md``."""
    lines = ["| name | method | backbone | data | epochs | accuracy | file |", "|---|---|---|---|---|---|---|"]
    for one in shown:
        where = f"[{'kept here' if one.file.kept else 'elsewhere'}]({one.file.where})"
        cells: list[Any] = [f"`{one.name}`", one.method, one.backbone, one.data, one.epochs, one.told, where]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
