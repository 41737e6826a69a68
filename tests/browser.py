"""Pages looked at in headless Chromium: several in one start, each in a window of a width of its own."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--hide-scrollbars",
          "--allow-file-access-from-files", "--window-size=2100,1000", "--dump-dom")  # fmt: skip
_HEIGHT = 844  # of a phone

# What is asked of every page: wider than its window, texts of a figure over one another or cut off, axe-core's findings.
_PROBE = """
const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
const cut = (a, b) => a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
addEventListener('load', async () => {
  const found = {overlaps: [], cut: [], pictures: 0};
  for (const svg of document.querySelectorAll('svg')) {
    const texts = [...svg.querySelectorAll('text')].filter((t) => t.getBoundingClientRect().width);
    const boxes = texts.map((t) => t.getBoundingClientRect()), frame = svg.getBoundingClientRect();
    found.pictures += frame.width > 0;
    boxes.forEach((a, i) => {
      if (cut(a, frame)) found.cut.push(texts[i].textContent.trim());
      boxes.slice(i + 1).forEach((b, j) => {
        if (over(a, b)) found.overlaps.push([texts[i], texts[i + 1 + j]].map((t) => t.textContent.trim()).join(' | ')); }); });
  }
  const page = document.documentElement;
  found.wider = page.scrollWidth - page.clientWidth;
  found.dark = matchMedia('(prefers-color-scheme: dark)').matches;
  found.first_picture = Math.round(document.querySelector('figure')?.getBoundingClientRect().bottom ?? 0);
  const violations = window.axe ? (await axe.run(document, {resultTypes: ['violations']})).violations : [];
  found.axe = violations.map((v) => v.id + ': ' + v.nodes.slice(0, 3).map((n) => n.target.join(' ')).join('; '));
  parent.postMessage({name: window.name, found}, '*');
});
"""
_COLLECT = """
const found = {};
addEventListener('message', ({data}) => {
  found[data.name] = data.found;
  if (Object.keys(found).length === document.querySelectorAll('iframe').length)
    document.title = JSON.stringify(found);
});
"""


def look(pages: Mapping[str, Path], widths: tuple[int, ...], folder: Path, dark: bool = False) -> dict[str, Any]:
    """What :data:`_PROBE` finds: ``{"name at width": {...}}``.

    Args:
        pages: files by name, which may load nothing but themselves.
        widths: pixels, each page is looked at in all of them; axe-core's rules are asked in the first.
        folder: for copies, with the probe in them.
        dark: the reader's colours.
    """
    assert CHROMIUM
    axe = (Path(find_spec("axe_core_python").origin).parent / "axe.min.js").read_text()  # type: ignore[union-attr, arg-type]
    frames = []
    for name, page in pages.items():
        text = re.sub(r'<meta http-equiv="(Content-Security-Policy|refresh)"[^>]*>', "", page.read_text())
        for width in widths:
            copy = folder / f"{name}-{width}.html"
            scripts = [axe, _PROBE] if width == widths[0] else [_PROBE]  # it takes seconds
            told = "".join(f"<script>{script}</script>" for script in scripts)
            copy.write_text(text.replace("</head>", f"{told}</head>", 1))
            style = f"width:{width}px;height:{_HEIGHT}px;border:0"
            frames.append(f'<iframe name="{name} at {width}" src="{copy.name}" style="{style}"></iframe>')
    outer = folder / f"outer-{dark}.html"
    outer.write_text(f"<!DOCTYPE html><title>-</title><script>{_COLLECT}</script>{''.join(frames)}")
    words = [CHROMIUM, *_FLAGS, f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=60000",
             f"--user-data-dir={folder / 'profile'}", outer.as_uri()]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    return json.loads(html.unescape(title[1]))
