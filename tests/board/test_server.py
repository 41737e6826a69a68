"""Who is answered, and with what: nobody without the token, and never a file outside the folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from solo_bam.board import hub
from solo_bam.board.server import allows
from solo_bam.cli import main
from tests.board.runs import add_epochs, board, pipe, write_run

PNG = b"\x89PNG picture"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a run, and secrets beside it."""
    run = write_run(tmp_path / "runs", "one")
    write_run(tmp_path / "runs", "<b>two & three</b>", seed=1)
    (run.path / "curves.png").write_bytes(PNG)
    (run.path / "report.html").write_text("<p>report")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "runs-secret").mkdir()  # whose name begins as the folder's
    (tmp_path / "runs-secret" / "x.png").write_bytes(b"secret")
    (tmp_path / "runs" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "runs" / "out").symlink_to(tmp_path)
    (tmp_path / "runs" / "in.png").symlink_to(run.path / "curves.png")
    (tmp_path / "runs" / "circle.png").symlink_to("circle.png")
    pipe(tmp_path / "runs" / "pipe.png")
    return tmp_path / "runs"


class Answer:
    def __init__(self, raw: bytes):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:]]
        self.headers = {name.lower(): value for name, value in lines}


async def ask(
    address: str, path: str = "", method: str = "GET", host: str | None = None, whole: bool = False
) -> Answer:
    """What the server says to a path, which no client has made tidy; ``whole``: instead of after the token."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    target = path if whole else place.path + path
    host = place.netloc if host is None else host
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"))
    raw = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return Answer(raw)


def served(root: Path, steps: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        async with board(root) as address:
            await steps(address)

    asyncio.run(all_of_it())


def test_nothing_is_told_without_the_token_or_to_another_name(root: Path) -> None:
    async def steps(address: str) -> None:
        token = urlsplit(address).path.strip("/")
        port = urlsplit(address).port
        assert len(token) >= 32
        for path in (
            "/",
            "/x/",
            f"/{token[:-1]}/",
            f"/x{token}/",
            f"/{token.upper()}/",
            "//",
            f"/x/{token}/",
            f"/?{token}",
            "*",
        ):
            for tail in ("", "events", "files/bam/one/curves.png", "static/board.js"):
                answer = await ask(address, path + tail, whole=True)
                assert (answer.status, b"one" in answer.body) == (403, False), path + tail
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "",
            f"127.0.0.1.evil.example:{port}",
            "192.168.0.1",
            "[",
            "@127.0.0.1.x",
        ):
            assert (await ask(address, host=host)).status in (400, 403), host
        for host in (f"localhost:{port}", "127.0.0.1", "LOCALHOST:9"):  # another port: of a tunnel
            assert (await ask(address, host=host)).status == 200, host
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert (await ask(address, method=method)).status == 405, method
        assert (await ask(address, "nothing")).status == 404

    served(root, steps)


def test_a_host_that_was_asked_for_has_its_names() -> None:
    assert allows("0.0.0.0", "10.1.2.3:80")
    assert allows("0.0.0.0", socket.gethostname())
    assert allows("machine.example", "machine.example:80")
    assert not allows("0.0.0.0", "evil.example")
    assert not allows("127.0.0.1", "10.1.2.3")


def test_only_this_machine_is_answered(root: Path) -> None:
    async def steps(address: str) -> None:
        assert urlsplit(address).hostname == "127.0.0.1"
        for place in {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} | {
            "127.0.0.2"
        }:
            if place != "127.0.0.1":
                with pytest.raises(OSError):
                    await asyncio.wait_for(asyncio.open_connection(place, urlsplit(address).port), 5)

    served(root, steps)


def test_the_page_escapes_what_it_shows_and_takes_nothing_foreign(root: Path) -> None:
    async def steps(address: str) -> None:
        page = await ask(address)
        assert page.status == 200
        assert b"<b>two" not in page.body
        assert b"&lt;b&gt;two &amp; three" in page.body
        assert page.body.count(b"<tr data-run=") == 2
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "script-src 'self';" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"
        links = re.findall(rb"(?:src|href)=\"([^\"]+)\"", page.body)
        assert links
        assert all(link.startswith((b"static/", b"data:,")) for link in links), links
        for link in (one.decode() for one in links if one.startswith(b"static/")):
            assert (await ask(address, link)).status == 200, link
        assert (await ask(address, "static/../server.py")).status == 404
        head = await ask(address, method="HEAD")
        assert (head.status, head.body) == (200, b"")

    served(root, steps)


FOREIGN = [
    "../secret.png", "%2e%2e/secret.png", "..%2fsecret.png", "%2e%2e%2fsecret.png", "bam/../../secret.png",
    "../runs-secret/x.png", "..%5csecret.png", "..\\secret.png", "%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd",
    "{outside}", "%00", "bam/one/curves.png%00", "..%00/secret.png", "out.png", "out/secret.png", "out", "%252e%252e/secret.png",
    "%c0%ae%c0%ae/secret.png", "circle.png", "pipe.png", "bam/one/run.json", "bam/one/recipe.yaml", "bam/one/logs/cost.jsonl",
    "bam", "", ".", "bam/one/curves.png/", "bam/one/curves.png/../../../../secret.png", "x" * 5000,
]  # fmt: skip


def test_no_file_outside_the_folder_is_served(root: Path) -> None:
    async def steps(address: str) -> None:
        for path in FOREIGN:
            path = path.replace("{outside}", quote(str(root.parent / "secret.png"), safe=""))
            answer = await ask(address, f"files/{path}")
            if path == "bam/one/curves.png/":  # the file, however it is spelt
                continue
            assert answer.status in (400, 403, 404), (path, answer.status)
            assert b"secret" not in answer.body
            assert b"root:" not in answer.body

    served(root, steps)


def test_pictures_and_reports_are_served_and_run_nothing(root: Path) -> None:
    async def steps(address: str) -> None:
        for path in ("bam/one/curves.png", "in.png", "bam/./one/curves%2Epng"):
            answer = await ask(address, f"files/{path}")
            assert (answer.status, answer.body) == (200, PNG), path
            assert answer.headers["content-type"] == "image/png"
            assert "script-src" not in answer.headers["content-security-policy"]
        report = await ask(address, "files/bam/one/report.html")
        assert (report.status, report.body) == (200, b"<p>report")
        run = await ask(address, "files/bam/one/")  # as a report links to it
        assert run.status == 302
        assert run.headers["location"] == urlsplit(address).path + "#run=bam%2Fone"

    served(root, steps)


def test_names_that_are_no_unicode_hide_nothing(root: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    (write_run(root, "odd", method="\ud800").path / "curves.png").touch()
    (root / "bam" / "odd").rename(root / "bam" / odd)

    async def steps(address: str) -> None:
        page = await ask(address)
        assert (page.status, page.body.count(b"<tr data-run=")) == (200, 3)
        assert (await ask(address, "chosen?run=bam/%ff%fe")).status in (200, 400)
        assert (await ask(address, "files/bam/%ff%fe/curves.png")).status == 400

    served(root, steps)


def test_the_chosen_runs_are_shown(root: Path) -> None:
    async def steps(address: str) -> None:
        both = f"run=bam/one&run={quote('bam/<b>two & three</b>', safe='')}&run=bam/none&run=../runs-secret"
        await ask(address)
        shown = (await ask(address, f"chosen?{both}")).body.decode()
        assert re.findall(r'<tr><th scope="row">(\w+)', shown) == ["name", "seed"]
        assert "<option>loss_step</option>" in shown
        assert "files/bam/one/curves.png" in shown
        assert "<b>" not in shown
        drawn = await ask(address, f"curves?{both}&metric=knn_acc1&axis=hours&scheme=dark")
        text = json.dumps(json.loads(drawn.body))
        assert text.count('"name": "LegendItem"') == 2
        assert "secret" not in text
        for bad in ("axis=x&scheme=dark", "axis=hours&scheme=x", "axis=hours"):
            assert (await ask(address, f"curves?{both}&metric=knn_acc1&{bad}")).status == 400

    served(root, steps)


def test_a_broken_log_hides_no_other_run(root: Path) -> None:
    for name, log in (("torn", "start_1.jsonl"), ("costs", "cost.jsonl")):
        (write_run(root, name).logs / log).write_bytes(b'\xff\xfe\n{"epoch": "x"}\n')

    async def steps(address: str) -> None:
        await ask(address)
        chosen = "run=bam/one&run=bam/torn&run=bam/costs"
        shown = await ask(address, f"chosen?{chosen}")
        assert (shown.status, b"<option>loss_step</option>" in shown.body) == (200, True)
        drawn = await ask(address, f"curves?{chosen}&metric=knn_acc1&axis=hours&scheme=dark")
        assert (drawn.status, drawn.body.count(b'"name": "LegendItem"')) == (200, 1)
        reader, writer = await asyncio.open_connection((place := urlsplit(address)).hostname, place.port)
        writer.write(f"GET {place.path}events?since={'9' * 5000} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"200"
        writer.close()

    served(root, steps)


def test_an_epoch_is_told_within_seconds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "POLL", 0.1)
    run = write_run(root, "going", status="stopped")

    async def steps(address: str) -> None:
        version = re.search(rb'data-version="(\d+)"', (await ask(address)).body)
        assert version is not None
        place = urlsplit(address)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        request = f"GET {place.path}events?since={version[1].decode()} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
        writer.write(request.encode())
        add_epochs(run, [3])
        start, told = time.monotonic(), b""
        while b"4 of 10" not in told:
            told = await asyncio.wait_for(reader.readuntil(b"\n\n"), 20)
        assert time.monotonic() - start < 10
        news = json.loads(told[told.index(b"data: ") + 6 : told.index(b"\n\n")])
        assert [*news["rows"]] == ["bam/going"]
        assert "3 runs" in news["summary"]
        add_epochs(run, [4])
        while b"5 of 10" not in told:
            told = await asyncio.wait_for(reader.readuntil(b"\n\n"), 20)
        assert time.monotonic() - start < 10
        writer.close()

    served(root, steps)


def test_nothing_is_written(root: Path) -> None:
    def snapshot() -> dict[str, tuple[int, int]]:
        return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in root.rglob("*")}

    write_run(root, "going", status="running")
    (root / "bam" / "going" / "running.lock").touch()
    before = snapshot()

    async def steps(address: str) -> None:
        for path in (
            "",
            "chosen?run=bam/one&run=bam/going",
            "curves?run=bam/one&metric=rankme&axis=epochs&scheme=light",
        ):
            assert (await ask(address, path)).status == 200

    served(root, steps)
    assert snapshot() == before


# ------------------------------------------------------------------------------------------- command


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, told in (
            ([str(tmp_path / "absent")], "there is no folder"),
            ([str(tmp_path), str(tmp_path)], "takes one"),
            ([str(tmp_path), "port=x"], "port: got 'x'"),
            ([str(tmp_path), f"port={port}"], f"127.0.0.1:{port} cannot be bound"),
            ([str(tmp_path), "--host", "no.such.host.invalid"], "cannot be bound"),
        ):
            assert main(["board", *words]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert told in line
    monkeypatch.setattr("solo_bam.cli.board.find_spec", lambda name: None if name == "tornado" else name)
    assert main(["board", str(tmp_path)]) == 2
    assert "pip install 'solo-bam[board]'" in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once(root: Path) -> None:
    words = [sys.executable, "-m", "solo_bam", "board", str(root), "--host", "0.0.0.0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        address = line.rsplit(maxsplit=1)[1]
        port = urlsplit(address).port
        assert process.stdout.readline()
        assert process.stdout.readline().startswith("Warning: 0.0.0.0 can be reached from other machines")
        with socket.create_connection(("127.0.0.1", port or 0)) as page:  # which stays open
            page.sendall(f"GET {urlsplit(address).path}events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert page.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        assert process.returncode == 0
        assert said == ""
    finally:
        process.kill()
