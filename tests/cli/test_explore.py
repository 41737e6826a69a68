"""``solo-bam explore`` as a user runs it, and its page in a browser."""

from __future__ import annotations

import asyncio
import base64
import builtins
import html
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("bokeh")

from solo_bam.cli import main
from solo_bam.core.errors import UserError
from solo_bam.core.neighbors import Neighbours
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.evaluate.explore import closest_pairs, confused, nearest_others
from solo_bam.evaluate.views import Sample
from solo_bam.plots import explore as page_of
from solo_bam.plots.explore import LIMIT, Explored, Network, Places, write_page
from solo_bam.runs.checkpoints.read import load_pretrained
from solo_bam.runs.records import read_records
from tests import browser
from tests.pretrained import pretrained_run

FEW = ["data.fraction=0.03", "num_workers=0"]  # 43 images vote
SMALL = [*FEW, "reduction=pca", "num_images=60"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    assert main(["explore", str(run), *SMALL]) == 0
    return (run / "plots" / "explore.html").read_text()


def _data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def _words(page: str) -> str:
    """What a reader sees: neither scripts nor tags."""
    plain = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", plain)).replace("\xa0", " ").split())


def _measured(run: Path, page: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and labels of the images shown: of the untrained network, and of the trained one."""
    names = [path.relative_to(digits_folder() / "val").as_posix() for path in _validation_images()]
    shown = [names.index(name) for name in _data(page)["names"]]
    for branch in ("untrained", "student"):
        network = load_pretrained(run, branch)
        found = Sample.of(network.recipe, network.recipe.data, 64, 0).features(network.backbone)
        yield found.values[shown].numpy(), found.labels[shown].numpy()


def _validation_images() -> list[Path]:
    return sorted((digits_folder() / "val").glob("*/*.png"))


# ---------------------------------------------------------------------------------------- what it shows


def test_the_accuracy_is_that_of_solo_bam_knn(run: Path, page: str) -> None:
    for branch in ("student", "untrained"):
        assert main(["knn", str(run), "k=20", "distance=cosine", f"branch={branch}", *FEW]) == 0
        [record] = [r for r in read_records(run / "evaluation") if r.metric == "accuracy" and r.branch == branch]
        low, high = record.interval or (0, 0)
        assert f"{record.value:.2f} % ({low:.2f} to {high:.2f})" in _words(page), branch
    assert "k-NN accuracy (k = 20) on 360 validation images" in _words(page)
    assert record.protocol.bank in _words(page)


def test_the_neighbours_are_those_of_a_naive_computation(run: Path, page: str) -> None:
    for network, (features, labels) in zip(_data(page)["networks"], _measured(run, page), strict=True):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        cosines = unit.astype(float) @ unit.T.astype(float)
        np.fill_diagonal(cosines, -np.inf)
        assert np.allclose(network["cosines"], -np.sort(-cosines, 1)[:, :10], atol=1e-3)
        assert np.allclose(np.take_along_axis(cosines, np.array(network["near"]), 1), network["cosines"], atol=1e-3)
        assert labels.tolist() == _data(page)["labels"]


def test_before_is_not_after(page: str) -> None:
    before, after = _data(page)["networks"]
    assert (before["title"], after["title"]) == ("before training", "after 4 epochs")
    for what in ("places", "near", "cosines", "predicted"):
        assert before[what] != after[what], what


def test_what_is_confused_and_alike_has_its_pictures(page: str) -> None:
    data = _data(page)
    predicted = data["networks"][-1]["predicted"]
    cards = re.findall(r"<li><p><b>(\w)</b> taken for <b>(\w)</b></p>(.*?)</li>", page, re.DOTALL)
    assert len(cards) == 10
    for true, taken_for, card in cards:
        shown = [int(i) for i in re.findall(r'data-i="(\d+)"', card)]
        assert shown
        assert {(data["labels"][i], predicted[i]) for i in shown} == {(int(true), int(taken_for))}
    alike = page[page.index("Of different classes") : page.index('id="how"')].split("Of the same class")
    for part, same in zip(alike, (False, True), strict=True):
        numbers = [int(i) for i in re.findall(r'data-i="(\d+)"', part)]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        assert len(pairs) == 10
        assert all((data["labels"][i] == data["labels"][j]) is same for i, j in pairs)


def test_each_thumbnail_stands_where_the_page_looks_for_it(page: str) -> None:
    data, atlas = _data(page), _atlas(page)
    side = atlas.width // data["columns"]
    for i, name in enumerate(data["names"]):
        x, y = i % data["columns"] * side, i // data["columns"] * side
        own = np.asarray(Image.open(digits_folder() / "val" / name).convert("RGB").resize((side, side)), float)
        found = np.asarray(atlas.crop((x, y, x + side, y + side)), float)
        assert np.abs(own - found).mean() < 8, name


def _atlas(page: str) -> Image.Image:
    found = re.search(r"data:image/jpeg;base64,([\w+/=]+)", page)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_without_labels_everything_but_errors_and_classes_is_there(run: Path, tmp_path: Path) -> None:
    where = ["data.dataset=custom", "data.no_labels=True", f"data.train_path={digits_folder()}/val/3"]
    target = tmp_path / "page.html"
    assert main(["explore", str(run), *where, "num_workers=0", "reduction=pca", f"output={target}"]) == 0
    data, words = _data(target.read_text()), _words(target.read_text())
    assert set(data["labels"]) == {-1}
    assert [len(network["near"][0]) for network in data["networks"]] == [10, 10]
    assert [network["predicted"] for network in data["networks"]] == [None, None]
    assert "The closest pairs" in words
    assert "confused" not in words
    assert "this is transfer" in words


def test_where_the_seed_is_not_known_there_is_no_before(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of solo-learn's own checkpoints."""
    foreign = replace(load_pretrained(run), own_recipe=False)
    monkeypatch.setattr("solo_bam.evaluate.explore.load_pretrained", lambda *_: foreign)
    assert main(["explore", str(run), *SMALL, f"output={tmp_path}/page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert [network["title"] for network in _data(page)["networks"]] == ["after 4 epochs"]
    assert "before training" not in _words(page)


# --------------------------------------------------------------------------------------------- computing


def test_exact_copies_are_neighbours_and_no_image_is_its_own() -> None:
    values = torch.cat([torch.ones(14, 3), torch.randn(20, 3, generator=torch.Generator().manual_seed(0))])
    near = nearest_others(values, 10)
    assert near.positions.shape == (34, 10)
    assert not (near.positions == torch.arange(34)[:, None]).any()
    assert torch.allclose(near.closeness[:14], torch.tensor(1.0))
    assert nearest_others(values[:4], 10).positions.shape == (4, 3)


@pytest.mark.parametrize("same", [True, False, None])
def test_closest_pairs_are_those_of_all_pairs(same: bool | None) -> None:
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(1100, 8)).astype(np.float32), generator.integers(0, 5, 1100)
    values[10:20] = values[9] + 0.01 * values[10:20]  # all alike: each may be in one pair alone
    labels[9:12] = -1
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    rows, columns = np.triu_indices(len(unit), 1)
    fits = np.ones(len(rows), bool) if same is None else (labels[rows] == labels[columns]) == same
    if same is not None:
        fits &= (labels[rows] >= 0) & (labels[columns] >= 0)
    cosines = (unit @ unit.T)[rows, columns]
    expected, used = [], set()
    for at in np.argsort(-np.where(fits, cosines, -9)):
        if not used & {rows[at], columns[at]} and len(expected) < 10:
            expected.append({int(rows[at]), int(columns[at])})
            used |= expected[-1]
    found = closest_pairs(torch.from_numpy(values), torch.from_numpy(labels), same)
    assert [{pair.first, pair.second} for pair in found] == expected


def test_confusions_are_counted() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    before, after = np.array([1, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0, 2])
    first, second = confused(labels, [before, after], preferred=np.array([3]))
    assert first == (0, 1, 3, 4, 1, [3, 1, 2])
    assert second == (1, 0, 1, 2, 0, [5])
    assert confused(labels, [after], np.array([3]))[0].before is None
    assert confused(labels, [labels], np.array([3])) == []


# -------------------------------------------------------------------------------------------------- size


def _shown(count: int, side: int = 64, classes: tuple[str, ...] = ("a", "b")) -> Explored:
    """Noise, of which JPEG makes the largest files."""
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(count)]
    near = Neighbours(torch.zeros(count, 10), torch.zeros(count, 10, dtype=torch.int64))
    places = {"pca": Places(generator.normal(size=(count, 2)), ["1", "2"])}
    networks = [Network(title, places, near, np.zeros(count, int)) for title in ("before", "after")]
    names, labels = [f"{i}.jpg" for i in range(count)], np.zeros(count, int)
    return Explored("title", "answer", pictures, names, labels, classes, networks, [], {}, {})


def test_the_page_has_at_most_ten_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(_shown(2000), tmp_path / "page.html")
    assert 0.5 * LIMIT < (tmp_path / "page.html").stat().st_size <= LIMIT <= 10_000_000
    monkeypatch.setattr(page_of, "LIMIT", 1_000_000)
    with pytest.raises(UserError, match=r"num_images: got 50, their page would have more than 1 MB; lower it"):
        write_page(_shown(50), tmp_path / "none.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_large_images_make_small_thumbnails(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1200, 3), np.uint8)
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(pixels[i:]).save(tmp_path / "images" / f"{i}.png")
    where = ["data.dataset=custom", "data.no_labels=True", f"data.train_path={tmp_path}/images", "num_workers=0"]
    assert main(["explore", str(run), *where, f"output={tmp_path}/page.html"]) == 0  # too few for UMAP
    assert (tmp_path / "page.html").stat().st_size < 1_600_000
    assert _atlas((tmp_path / "page.html").read_text()).size == (128, 128)


# ---------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "broken").mkdir()
    shutil.copy(_validation_images()[0], tmp_path / "one" / "a.png")
    shutil.copy(_validation_images()[0], tmp_path / "broken" / "a.png")
    (tmp_path / "broken" / "b.png").write_bytes(b"\x89PNG nothing")
    own = ["data.dataset=custom", "data.no_labels=True"]
    cases = [
        (["output=page.txt"], "output: ", "must end in .html"),
        (["output=/proc/page.html"], "output: ", "cannot be written"),
        (["k=1000"], "k: ", "got 1000, the bank has 43 images; lower it"),
        (["num_images=1"], "num_images: ", "got 1"),
        (["reduction=tsne"], "reduction", "umap"),
        (["kk=3"], "kk: ", "did you mean k?"),
        ([*own, f"data.train_path={tmp_path}/one"], "data: ", "has a single image"),
        ([*own, f"data.train_path={tmp_path}/broken"], "data.train_path: ", "b.png cannot be read ("),
        ([f"data.val_path={tmp_path}/none"], "data.val_path: ", "there is no folder"),
    ]
    for settings, key, problem in cases:
        capsys.readouterr()
        target = [] if settings[0].startswith("output") else [f"output={tmp_path}/page.html"]
        assert main(["explore", str(run), *FEW, *target, *settings]) == 2, settings
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"solo-bam: error: {key}"), message
        assert problem in message
    assert not list(tmp_path.glob("page.html*"))


@pytest.mark.parametrize(
    ("package", "setting", "message"),
    [
        ("bokeh", "reduction=pca", "explore: bokeh is not installed; pip install 'solo-bam[explore]'"),
        ("umap", "reduction=umap", "reduction: got 'umap', umap-learn is not installed; pip install 'solo-bam[umap]'"),
        ("umap", "k=20", None),
    ],
)
def test_what_to_install(
    package: str,
    setting: str,
    message: str | None,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    ordinary = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return ordinary(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    target = tmp_path / "page.html"
    code = main(["explore", str(run), *FEW, "num_images=60", f"output={target}", setting])
    if message is None:  # PCA alone, and how to get the other
        assert code == 0
        assert "pip install 'solo-bam[umap]'" in _words(target.read_text())
        assert list(_data(target.read_text())["networks"][0]["places"]) == ["pca"]
    else:
        assert code == 2
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- page


def test_the_page_needs_no_other_host(page: str) -> None:
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # Bokeh's text has addresses, in comments and XML
    links = re.findall(r"(?:src|href|xlink:href)=\"([^\"]*)\"", own)
    assert links
    assert [link for link in [*links, *re.findall(r"url\(([^)]{0,40})", own)] if not link.startswith("data:")] == []
    assert "default-src 'none'" in own
    assert "<link" not in page.replace('<link rel="icon" href="data:,">', "")


def test_names_are_text(tmp_path: Path) -> None:
    write_page(_shown(20, classes=("</script><b>a", "b")), tmp_path / "page.html")
    assert "</script><b>a" not in (tmp_path / "page.html").read_text()


# Chooses image 7 by its number, colors by errors, then points at image 40 of the second plane.
_PROBE = """(async () => {
const said = {};
const panel = () => [...document.querySelectorAll("#near button")].map(one => Number(one.dataset.i));
  said.points = source.data.x0.length;
  document.getElementById("number").value = 7;
  document.getElementById("number").dispatchEvent(new Event("input"));
  said.chosen = document.getElementById("chosen").textContent;
  said.near = panel();
  document.getElementById("color").value = "error";
  document.getElementById("color").dispatchEvent(new Event("change"));
  said.triangles = [0, 1].map(k => source.data["m" + k].filter(marker => marker === "triangle").length);
  document.querySelector("ol.cards button").click();
  said.pressed = [document.querySelector("ol.cards button").dataset.i, document.getElementById("number").value, document.activeElement.id];
  await new Promise(done => setTimeout(done, 500));  // until it is drawn
  const plane = [...Bokeh.index.roots][1], events = plane.canvas_view.events_el, box = events.getBoundingClientRect();
  const at = {view: window, clientX: box.left + plane.frame.x_scale.compute(source.data.x1[40]), bubbles: true, composed: true,
              clientY: box.top + plane.frame.y_scale.compute(source.data.y1[40]), pointerType: "mouse", pointerId: 1, isPrimary: true};
  for (const kind of ["pointerenter", "pointermove"]) events.dispatchEvent(new PointerEvent(kind, at));
  for (const kind of ["mouseenter", "mousemove"]) events.dispatchEvent(new MouseEvent(kind, at));
  said.hovered = [source.inspected.indices[0], document.getElementById("card").textContent, panel()];
  events.dispatchEvent(new MouseEvent("mouseleave", at));
  source.selected.indices = [33];  // as a tap does
  said.tapped = [document.getElementById("number").value, panel()[0]];
  const d = document.documentElement;
  said.widths = [d.scrollWidth, d.clientWidth];
  return said; })()"""


async def _look(page: str, folder: Path, width: int, scheme: str, probe: str) -> tuple[Any, list[str], list[str]]:
    """What the probe finds in the page, what axe-core does, and what the browser complains about."""
    (folder / "page.html").write_text(page)
    async with browser.browser(folder / "profile") as tab:
        await tab.look(width, scheme=scheme)
        await tab.open((folder / "page.html").as_uri())
        return await tab.run(probe), await tab.axe(), tab.told


NEEDS_A_BROWSER = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs a browser: Debian's package chromium")


@NEEDS_A_BROWSER
def test_a_browser_shows_thumbnails_of_many_megabytes(tmp_path: Path) -> None:
    probe = """(async () => {
      const style = getComputedStyle(document.getElementById("picture")), image = new Image();
      image.src = style.backgroundImage.slice(5, -2);
      await image.decode().catch(() => {});
      return {width: image.naturalWidth, size: style.backgroundSize}; })()"""
    write_page(_shown(800), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert len(text) > 6_000_000
    said, *_ = asyncio.run(_look(text, tmp_path, 1280, "light", probe))
    assert said == {"width": 29 * 64, "size": f"{29 * 112}px {28 * 112}px"}


@NEEDS_A_BROWSER
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_in_a_browser_without_a_network(page: str, tmp_path: Path, width: int, scheme: str) -> None:
    said, axe, complaints = asyncio.run(_look(page, tmp_path, width, scheme, _PROBE))
    data = _data(page)
    both = data["networks"]
    assert said["points"] == len(data["labels"])
    assert said["chosen"] == f"Image 7: {data['labels'][7]}"
    assert said["near"] == [*both[0]["near"][7], *both[1]["near"][7]]
    assert said["triangles"] == [int((np.array(one["predicted"]) != data["labels"]).sum()) for one in both]
    first, number, focused = said["pressed"]
    assert (first, focused) == (number, "chosen")
    assert said["hovered"][0] == 40
    assert said["hovered"][1].startswith(f"image 40: {data['labels'][40]}")
    assert said["hovered"][2] == [*both[0]["near"][40], *both[1]["near"][40]]
    assert said["tapped"] == ["33", both[0]["near"][33][0]]
    assert said["widths"][0] <= said["widths"][1] == width
    assert complaints == []
    assert axe == []
