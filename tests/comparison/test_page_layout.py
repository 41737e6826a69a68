"""The page in a browser: at a phone's, a desk's and a wide screen's width, light and dark, whatever the comparison."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from solo_bam.comparison.report.write import write_report
from tests import browser
from tests.comparison import synthetic

SEEDS = (0, 1, 2)
LONG = "a-very-long-name-of-a-row_with_all_that_was_changed_in_it-temperature=0.2-lr=0.0123456-wd=0.001"
SCENES: dict[str, dict[str, Any]] = {
    "one": {"entries": ("simclr",), "seeds": (0,)},
    "three": {"entries": ("bam", "byol", "simclr"), "tuned": True},
    "twenty": {"entries": tuple(f"method number {i}" for i in range(20)), "tuned": True},
    "failed": {"failed": [("byol", 1)], "missing": [("simclr", 2)], "unfair": True, "tuned": True},
    "none": {"missing": [(entry, seed) for entry in synthetic.ENTRIES for seed in SEEDS]},
    "names": {
        "entries": (LONG, "自己注意マッチング", "مطابقة الانتباه الذاتي", "Сопоставление", LONG[:60]),
        "unfair": True,
    },
}
NOW = {"none": "Runs 1 of 9 at 12:00: bam, seed 0."}

HEIGHT = 844  # of a phone
# Wider than its window, texts of a figure over one another or cut off, where the first figure ends.
PROBE = """(() => {
const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
const cut = (a, b) => a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
const page = document.documentElement, found = {overlaps: [], cut: [], wider: page.scrollWidth - page.clientWidth};
for (const svg of document.querySelectorAll('figure svg')) {
  const texts = [...svg.querySelectorAll('text')].filter((t) => t.getBoundingClientRect().width);
  const boxes = texts.map((t) => t.getBoundingClientRect()), frame = svg.getBoundingClientRect();
  boxes.forEach((a, i) => {
    if (cut(a, frame)) found.cut.push(texts[i].textContent.trim());
    boxes.slice(i + 1).forEach((b, j) => {
      if (over(a, b)) found.overlaps.push([texts[i], texts[i + 1 + j]].map((t) => t.textContent.trim()).join(' | ')); }); });
}
found.first_picture = Math.round(document.querySelector('figure')?.getBoundingClientRect().bottom ?? 0);
return found; })()"""
DARK = "matchMedia('(prefers-color-scheme: dark)').matches"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if browser.CHROMIUM is None:
        pytest.skip("needs a browser: Debian's package chromium")
    folder = tmp_path_factory.mktemp("pages")
    return {
        name: write_report([synthetic.results(folder, **scene)], folder / name, NOW.get(name, ""))
        for name, scene in SCENES.items()
    }


@pytest.fixture(scope="module")
def found(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What :data:`PROBE` finds in each page at each width; axe-core's findings at a desk's, light and dark."""

    async def look() -> dict[str, Any]:
        seen = {}
        async with browser.browser(tmp_path_factory.mktemp("profile")) as tab:
            for name, page in pages.items():
                await tab.open(page.as_uri())
                for width in (390, 2000, 1280):
                    await tab.look(width, HEIGHT)
                    seen[f"{name} at {width}"] = await tab.run(PROBE)
                if name == "twenty":  # the same page, longer: half a minute of axe-core
                    continue
                seen[f"{name}, light"] = {"axe": await tab.axe()}
                await tab.look(1280, HEIGHT, "dark")
                seen[f"{name}, dark"] = {"axe": await tab.axe(), "dark": await tab.run(DARK)}
        return seen

    return asyncio.run(look())


def test_a_page_has_at_most_three_megabytes(pages: dict[str, Path]) -> None:
    assert max(page.stat().st_size for page in pages.values()) < 3_000_000


def test_nothing_is_wider_than_its_window(found: dict[str, Any]) -> None:
    assert {name: one["wider"] for name, one in found.items() if one.get("wider", 0) > 0} == {}


def test_no_text_of_a_figure_lies_over_another_or_is_cut_off(found: dict[str, Any]) -> None:
    assert {name: one["overlaps"] for name, one in found.items() if one.get("overlaps")} == {}
    assert {name: one["cut"] for name, one in found.items() if one.get("cut")} == {}


def test_axe_finds_nothing(found: dict[str, Any], pages: dict[str, Path]) -> None:
    """Contrast, names, roles, order of headings: the rules of axe-core."""
    assert {name: one["axe"] for name, one in found.items() if one.get("axe")} == {}
    assert sum("axe" in one for one in found.values()) == 2 * (len(pages) - 1)
    assert all(one["dark"] for name, one in found.items() if name.endswith("dark"))


def test_a_page_of_what_runs_loads_itself_anew(pages: dict[str, Path], tmp_path: Path) -> None:
    """As often as it says, and not where the box is off; quickly here, or the test would take a minute."""

    async def look() -> None:
        page = pages["none"].parent / "quick.html"
        told = pages["none"].read_text().replace("20000", "200")
        script = re.findall("<script>(.*)</script>", told)[0].encode()
        page.write_text(re.sub("sha256-[^']+", f"sha256-{b64encode(sha256(script).digest()).decode()}", told))
        async with browser.browser(tmp_path) as tab:
            await tab.open(page.as_uri())
            await tab.run("document.title = 'before'")
            await tab.until("document.title != 'before' && document.readyState == 'complete'")
            await tab.run("document.getElementById('reload').click(); document.title = 'before'")
            await asyncio.sleep(1)
            assert await tab.run("document.title") == "before"

    asyncio.run(look())


def test_the_first_figure_is_on_the_first_screen_of_a_phone(found: dict[str, Any]) -> None:
    places = {
        name: one["first_picture"]
        for name, one in found.items()
        if name.startswith(("one at", "three at", "failed at"))
    }
    assert max(places.values()) <= HEIGHT
    assert min(places.values()) > 0
