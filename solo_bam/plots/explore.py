"""A page to look at features with: one file, which opens without a network. Needs Bokeh."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from solo_bam.core.errors import UserError
from solo_bam.core.files import written_whole
from solo_bam.core.neighbors import Neighbours

LIMIT = 10_000_000  # bytes of the page
THUMBNAIL = 64  # pixels, at most
# Side and JPEG quality of the thumbnails, the first that fits.
_QUALITIES = ((64, 85), (64, 70), (48, 75), (32, 75), (24, 70), (16, 60))
_TEMPLATE = Path(__file__).with_name("explore.html")
_ATLAS = "{atlas}"  # where the thumbnails go


class Places(NamedTuple):
    """``places`` ``(N, 2)`` in the plane, and the names of its ``axes``."""

    places: np.ndarray
    axes: list[str]


class Confusion(NamedTuple):
    """``times`` of ``of`` images of a class were taken for another; ``before`` training as often, None: not known."""

    true: int
    predicted: int
    times: int
    of: int
    before: int | None
    examples: list[int]


class Pair(NamedTuple):
    """Two images, and the cosine of their features."""

    first: int
    second: int
    cosine: float


@dataclass(frozen=True)
class Network:
    """What one network makes of the images shown.

    Attributes:
        title: ``before training``, ``after 20 epochs``.
        places: by projection.
        near: the nearest others of each image.
        predicted: ``(N,)`` classes by k-NN; None where it was not measured.
    """

    title: str
    places: Mapping[str, Places]
    near: Neighbours
    predicted: np.ndarray | None


@dataclass(frozen=True)
class Explored:
    """What the page shows.

    Attributes:
        title: over the page.
        answer: in one sentence.
        pictures: square ones, of each image.
        names: where a user finds the images.
        labels: ``(N,)``, -1 for images without.
        classes: names of the labels.
        networks: before and after training, or the trained one alone.
        confusions: the most frequent ones.
        alike: closest pairs, by what they are.
        stated: the protocol.
    """

    title: str
    answer: str
    pictures: Sequence[Image.Image]
    names: Sequence[str]
    labels: np.ndarray
    classes: Sequence[str]
    networks: Sequence[Network]
    confusions: Sequence[Confusion]
    alike: Mapping[str, Sequence[Pair]]
    stated: Mapping[str, str]


def check_installed() -> None:
    """Refuse at once where Bokeh is missing.

    Raises:
        UserError: it is.
    """
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise UserError("explore", "bokeh is not installed", "pip install 'solo-bam[explore]'") from None


def write_page(shown: Explored, path: Path) -> None:
    """Write the page, whole or not at all; the thumbnails shrink until it has at most :data:`LIMIT` bytes.

    Raises:
        UserError: so many images that it has more.
    """
    text = _page(shown)
    atlas = _atlas(shown.pictures, LIMIT - len(text.encode()))
    if atlas is None:
        problem = f"got {len(shown.pictures)}, their page would have more than {LIMIT // 10**6} MB"
        raise UserError("num_images", problem, "lower it")
    with written_whole(path) as part:
        part.write_text(text.replace(_ATLAS, atlas, 1), encoding="utf-8")


def _atlas(pictures: Sequence[Image.Image], room: int) -> str | None:
    """All pictures in one, as the largest base64 of a JPEG that has room; None: none has."""
    columns = _columns(len(pictures))
    for most, quality in _QUALITIES:
        side, out = min(most, max(one.width for one in pictures)), io.BytesIO()
        atlas = Image.new("RGB", (side * columns, side * -(-len(pictures) // columns)))
        for i, one in enumerate(pictures):
            atlas.paste(one.resize((side, side)), (i % columns * side, i // columns * side))
        # Without subsampling, whose blocks would reach into the next picture.
        atlas.save(out, "JPEG", quality=quality, subsampling=0)
        text = base64.b64encode(out.getvalue()).decode()
        if len(text) <= room:
            return text
    return None


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _page(shown: Explored) -> str:
    from bokeh.embed import components
    from bokeh.resources import Resources

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    script, places = components(_figures(len(shown.networks)))
    count = len(shown.labels)
    return template.render(
        shown=shown,
        columns=_columns(count),
        rows=-(-count // _columns(count)),
        labelled=bool((shown.labels >= 0).any()),
        told=[_told(shown, i) for i in range(count)],
        bokeh=Markup("\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)),
        script=Markup(script),
        places=[Markup(places[f"n{i}"]) for i in range(len(shown.networks))],
        data=Markup(json.dumps(_data(shown), separators=(",", ":")).replace("<", "\\u003c")),
        atlas=Markup(_ATLAS),
    )


def _told(shown: Explored, image: int) -> str:
    label = int(shown.labels[image])
    return f"image {image}" + (f", {shown.classes[label]}" if label >= 0 else "")


def _data(shown: Explored) -> dict[str, Any]:
    """For the page's script."""
    return {
        "columns": _columns(len(shown.labels)),
        "labels": shown.labels.tolist(),
        "classes": list(shown.classes),
        "names": list(shown.names),
        "networks": [
            {
                "title": one.title,
                "places": {
                    name: {"x": there[:, 0].round(4).tolist(), "y": there[:, 1].round(4).tolist(), "axes": axes}
                    for name, (there, axes) in one.places.items()
                },
                "near": one.near.positions.tolist(),
                "cosines": one.near.closeness.double().numpy().round(3).tolist(),
                "predicted": None if one.predicted is None else one.predicted.tolist(),
            }
            for one in shown.networks
        ],
    }


def _figures(count: int) -> dict[str, Any]:
    """An empty plane per network, which the page's script fills; what is chosen in one is chosen in all."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    # One point that nobody sees, since an empty plane has no ranges.
    first = {"x": 0, "y": 0, "c": "black", "m": "circle", "s": 6, "a": 0}
    data = {f"{column}{i}": [value] for column, value in first.items() for i in range(count)}
    images, found = ColumnDataSource(data, name="images"), {}
    for i in range(count):
        plane = figure(
            tools="pan,box_zoom,wheel_zoom,tap,reset", sizing_mode="scale_width", aspect_ratio=1, match_aspect=True
        )
        plane.axis.visible = plane.grid.visible = False
        plane.update(background_fill_alpha=0, border_fill_alpha=0, outline_line_color=None, min_border=2)
        plane.toolbar.logo = None
        dots = plane.scatter(
            f"x{i}", f"y{i}", source=images, size=f"s{i}", marker=f"m{i}", color=f"c{i}", alpha=f"a{i}",
            nonselection_alpha=f"a{i}", selection_color=f"c{i}",
        )  # fmt: skip
        marks = ColumnDataSource({"x": [], "y": [], "size": []}, name=f"marks{i}")
        for color, width in (("white", 4), ("black", 2)):  # seen on every color
            plane.scatter("x", "y", source=marks, size="size", fill_alpha=0, line_color=color, line_width=width)
        plane.add_tools(HoverTool(renderers=[dots], tooltips=None))
        found[f"n{i}"] = plane
    return found
