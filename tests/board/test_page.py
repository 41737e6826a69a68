"""The page in a browser: found, sorted, chosen, drawn, renewed, and within everybody's reach."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from solo_bam.board import hub
from solo_bam.runs.folder import RunFolder
from tests import browser
from tests.board.runs import add_epochs, board, write_run
from tests.browser import Tab

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs a browser: Debian's package chromium")

NAMES = (
    "[...document.querySelectorAll('#runs tbody tr')].filter(row => !row.hidden).map(row => row.dataset.run.slice(4))"
)
DRAWN = "document.querySelector('#curves .bk-Figure')?.shadowRoot.querySelector('canvas') !== undefined"


def at(selector: str, then: str) -> str:
    return f"document.querySelector('{selector}').{then}"


def seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Callable[[Tab, str], Coroutine[Any, Any, None]]
) -> None:
    monkeypatch.setattr(hub, "POLL", 0.1)

    async def all_of_it() -> None:
        async with board(tmp_path / "runs") as address, browser.browser(tmp_path / "profile") as tab:
            await steps(tab, address)
            foreign = "performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.startsWith(location.origin))"
            assert await tab.run(foreign) == []
            assert tab.told == []

    asyncio.run(all_of_it())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed, (name, epochs) in enumerate({"ten": 10, "nine": 9, "two": 2}.items()):
        run = write_run(root, name, epochs=epochs, seed=seed, status="stopped")
        (run.path / "boxes").mkdir()
        for epoch in range(1, epochs, 4):
            picture = (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><text y="20">{epoch}</text></svg>'
            )
            (run.path / "boxes" / f"epoch={epoch}.svg").write_text(picture)
    write_run(root, "collapsed", collapsed_in=1, seed=7)
    return root


def test_runs_are_found_sorted_chosen_and_renewed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(tab: Tab, address: str) -> None:
        await tab.look(1280)
        await tab.open(address)
        for _, order in ((1, ["two", "collapsed", "nine", "ten"]), (2, ["ten", "nine", "collapsed", "two"])):
            await tab.run(at("#runs th:nth-child(5) button", "click()"))
            assert await tab.run(NAMES) == order
        assert await tab.run(at("#runs th:nth-child(5)", "ariaSort")) == "descending"
        search = "document.querySelector('#search').value = {!r}; document.querySelector('#search').dispatchEvent(new Event('input'))"
        await tab.run(search.format("STOPPED 2026-11-21"))
        assert await tab.run(NAMES) == ["nine"]
        await tab.run(at("#shown", "click()"))
        await tab.run(search.format(""))
        await tab.run(at('input[value="bam/two"]', "click()"))
        assert await tab.run(at("#count", "textContent")) == "4 of 4 shown, 2 chosen"
        await tab.until(DRAWN)
        assert (await tab.run("location.hash")).count("run=") == 2
        assert await tab.run("[...document.querySelectorAll('#details tbody th')].map(cell => cell.textContent)") == [
            "name",
            "seed",
        ]
        await tab.run(
            "const metric = document.querySelector('#metric'); metric.value = 'loss_step'; metric.dispatchEvent(new Event('change'))"
        )
        await tab.until(at("#curves", 'ariaLabel.startsWith("loss_step of 2 runs")'))
        pictures = "[...document.querySelectorAll('figure[data-links]')].map(one => one.querySelector('img').src.match(/epoch%3D(\\d+)/)[1]).join()"
        assert await tab.run(pictures) == "5,1"  # nine, two
        await tab.run(at("#before", "click()"))
        assert await tab.run(pictures) == "1,1"
        assert await tab.run(at("#at", "textContent")) == "1"

        await tab.run(at('input[value="bam/two"]', "focus()"))
        add_epochs(write_run(root, "new", epochs=0, status="stopped"), range(4))
        add_epochs(RunFolder(root / "bam" / "two"), range(2, 6))
        await tab.until(f"{NAMES}.join() === 'ten,nine,two,new,collapsed'")  # 10, 9, 6, 4, 3
        assert await tab.run("document.activeElement.value") == "bam/two"
        assert await tab.run(at('input[value="bam/two"]', "checked"))
        await tab.until(at("#summary", 'textContent.startsWith("5 runs")'))
        await tab.run("location.reload()")
        await tab.until(
            "document.readyState === 'complete' && document.querySelector('#metric')?.value === 'loss_step'"
        )

    seen(tmp_path, monkeypatch, steps)


def test_everybody_can_use_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("axe_core_python")

    async def steps(tab: Tab, address: str) -> None:
        for width, scheme in ((390, "light"), (1280, "dark"), (2000, "light")):
            await tab.look(width, scheme=scheme)
            await tab.open("about:blank")
            await tab.open(f"{address}#run=bam/ten&run=bam/nine")
            await tab.until(DRAWN)
            assert await tab.run("document.documentElement.scrollWidth") == width
            assert await tab.run("getComputedStyle(document.body).backgroundColor") == (
                "rgb(22, 24, 28)" if scheme == "dark" else "rgb(255, 255, 255)"
            )
            assert await tab.axe() == []

    seen(tmp_path, monkeypatch, steps)
