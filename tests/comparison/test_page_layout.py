"""The page in a browser: at a phone's, a desk's and a wide screen's width, light and dark, whatever the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from solo_bam.comparison.report.write import write_report
from tests.browser import CHROMIUM, look
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


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if CHROMIUM is None:
        pytest.skip("needs a browser: Debian's package chromium")
    folder = tmp_path_factory.mktemp("pages")
    return {name: write_report([synthetic.results(folder, **scene)], folder / name) for name, scene in SCENES.items()}


@pytest.fixture(scope="module")
def found(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return look(pages, (1280, 390, 2000), tmp_path_factory.mktemp("light"))


def test_a_page_has_at_most_three_megabytes(pages: dict[str, Path]) -> None:
    assert max(page.stat().st_size for page in pages.values()) < 3_000_000


def test_nothing_is_wider_than_its_window(found: dict[str, Any]) -> None:
    assert {name: one["wider"] for name, one in found.items() if one["wider"] > 0} == {}


def test_no_text_of_a_figure_lies_over_another_or_is_cut_off(found: dict[str, Any]) -> None:
    assert {name: one["overlaps"] for name, one in found.items() if one["overlaps"]} == {}
    assert {name: one["cut"] for name, one in found.items() if one["cut"]} == {}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(dark: bool, found: dict[str, Any], pages: dict[str, Path], tmp_path: Path) -> None:
    """Contrast, names, roles, order of headings: the rules of axe-core."""
    seen = look(pages, (1280,), tmp_path, dark=True) if dark else found
    assert {one["dark"] for one in seen.values()} == {dark}
    assert {name: one["axe"] for name, one in seen.items() if one["axe"]} == {}


def test_the_first_figure_is_on_the_first_screen_of_a_phone(found: dict[str, Any]) -> None:
    places = {name: one["first_picture"] for name, one in found.items() if name.startswith(("one", "three", "failed"))}
    assert max(places.values()) <= 844
    assert min(places.values()) > 0
