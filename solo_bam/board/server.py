"""The server of the page: a token in its address, read only, nothing but what lies below the folder.

Every request must name the token and the host that was bound, else it is refused: another page in the same browser,
or another user of the machine, learns nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from solo_bam.board import details
from solo_bam.board.hub import MOST, PAGE, Hub
from solo_bam.comparison.report.page import RELOAD_HASH
from solo_bam.core.errors import UserError

LOCAL = ("127.0.0.1", "localhost")
_ALIVE = timedelta(seconds=15)  # between two signs of life: a page that has been closed is noticed
_STRICT = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
_POLICY = f"{_STRICT}script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
_FILE_POLICY = f"{_STRICT}style-src 'unsafe-inline'; img-src data:"
_PAGE_POLICY = f"{_FILE_POLICY}; script-src '{RELOAD_HASH}'"
_HEADERS = {
    "Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer",  # the token stands in the address
    "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-cache",
}  # fmt: skip
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "png": "image/png", "svg": "image/svg+xml"}


def allows(bound: str, host: str) -> bool:
    """Whether a request that calls the server ``host`` is answered: a foreign name may mean any (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if bound in LOCAL or name in (*LOCAL, bound):
        return name in (*LOCAL, bound)
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in (socket.gethostname().lower(), socket.getfqdn().lower())


class Handler(RequestHandler):
    """Refuses whoever does not know the token; has nothing itself."""

    SUPPORTED_METHODS = ("GET", "HEAD")

    def initialize(self, hub: Hub, host: str) -> None:
        """Take what the requests share."""
        self.hub, self.host = hub, host

    def set_default_headers(self) -> None:
        """Let nothing foreign in, and nothing out."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Check host and token before anything else."""
        token = self.request.path.strip("/").split("/")[0].encode()
        if not allows(self.host, self.request.host) or not secrets.compare_digest(token, self.hub.token.encode()):
            raise HTTPError(403)

    async def get(self, *_: str) -> None:
        """There is nothing here."""
        raise HTTPError(404)

    async def head(self, *words: str) -> None:
        """Answer as :meth:`get`, whose body tornado leaves out."""
        await self.get(*words)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say no more than the code."""
        self.set_header("Content-Type", "text/plain")
        self.finish(f"{status_code}: {self._reason}\n")

    def chosen(self) -> details.Runs:
        """The runs that the request names, which may have gone meanwhile."""
        rows = self.hub.store.rows
        return {run: self.hub.store.folder(run) for run in self.get_query_arguments("run") if run in rows}

    def tell(self, text: str) -> None:
        """Answer with HTML, in which a file's name may be no Unicode."""
        self.finish(text.encode(errors="backslashreplace"))

    def send(self, path: Path, policy: str) -> None:
        """Answer with a file."""
        self.set_header("Content-Type", _TYPES[path.suffix[1:]])
        self.set_header("Content-Security-Policy", policy)
        self.finish(path.read_bytes())


class Page(Handler):
    """The page, with all rows."""

    async def get(self, *_: str) -> None:
        """Read what is new, and show it."""
        await self.hub.refresh()
        self.tell(self.hub.templates.get_template("board.html").render())


class Static(Handler):
    """What the page loads: its script and style, and BokehJS as Bokeh brings it."""

    async def get(self, *words: str) -> None:
        """One of three."""
        bokeh = Path(str(find_spec("bokeh").origin)).parent / "server/static/js/bokeh.min.js"  # type: ignore[union-attr]
        there = {"board.js": PAGE / "board.js", "board.css": PAGE / "board.css", "bokeh.min.js": bokeh}
        if words[0] not in there:
            raise HTTPError(404)
        self.send(there[words[0]], _POLICY)


class Events(Handler):
    """What changes, as server-sent events."""

    async def head(self, *_: str) -> None:
        """Answer at once."""

    async def get(self, *_: str) -> None:
        """Send until the page is closed."""
        since = self.request.headers.get("Last-Event-ID") or self.get_query_argument("since", "0")
        seen = int(since) if since.isdecimal() and len(since) < 20 else 0
        self.set_header("Content-Type", "text/event-stream")
        self.hub.listen(+1)
        try:
            while True:
                version, news = self.hub.store.version, self.hub.news(seen)
                self.write(f"id: {version}\ndata: {json.dumps(news)}\n\n" if news else ":\n\n")
                await self.flush()
                seen = version
                await self.hub.changed.wait(timeout=_ALIVE)
        except (StreamClosedError, asyncio.CancelledError):  # the page has been closed, or the board ends
            pass
        finally:
            self.hub.listen(-1)


class Chosen(Handler):
    """What the chosen runs have to show beside their curves."""

    async def get(self, *_: str) -> None:
        """Metrics, differences, pictures."""
        runs = self.chosen()
        shown = dict(list(runs.items())[:MOST])
        template, root = self.hub.templates.get_template("chosen.html"), self.hub.store.root

        def told() -> str:
            pictures = {run: details.pictures(folder, root) for run, folder in shown.items()}
            return template.render(
                runs=shown, left_out=len(runs) - len(shown), metrics=details.metric_names(shown),
                differences=details.differences(shown), pictures=pictures, axes=details.AXES,
                epochs=sorted({epoch for own in pictures.values() for one in own for epoch in one.links if epoch >= 0}),
            )  # fmt: skip

        self.tell(await asyncio.to_thread(told))


class Curves(Handler):
    """One metric of the chosen runs, for BokehJS."""

    async def get(self, *_: str) -> None:
        """Draw."""
        runs = dict(list(self.chosen().items())[:MOST])
        metric, axis, scheme = (self.get_query_argument(name) for name in ("metric", "axis", "scheme"))
        if axis not in details.AXES or scheme not in details.PAPER:
            raise HTTPError(400)
        self.finish(await asyncio.to_thread(lambda: json.dumps(details.curves(runs, metric, axis, scheme))))


class File(Handler):
    """A picture or a comparison's page below the folder; the folder of a run is the run on the board."""

    async def get(self, *words: str) -> None:
        """Serve nothing that is anything else, or that a link leads out to."""
        root = self.hub.store.root
        try:
            path = (root / words[0]).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # not there, a name that no file can have, a circle of links
            raise HTTPError(404) from None
        if not path.is_relative_to(root):
            raise HTTPError(403)
        if (path / "run.json").is_file():
            run = quote(path.relative_to(root).as_posix(), safe="")
            return self.redirect(f"/{self.hub.token}/#run={run}")
        if not path.is_file() or (path.suffix not in (".png", ".svg") and path.name != "report.html"):
            raise HTTPError(403)
        self.send(path, _PAGE_POLICY if path.suffix == ".html" else _FILE_POLICY)


async def serve(root: Path, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until it is cancelled.

    Args:
        root: the folder.
        host: to bind.
        port: 0: one that is free.
        ready: called with the address.

    Raises:
        UserError: host or port cannot be bound.
    """
    hub = Hub(root)
    routes = [("", Page), ("events", Events), ("chosen", Chosen), ("curves", Curves)]
    routes += [("static/(.*)", Static), ("files/(.*)", File)]
    shared = {"hub": hub, "host": host}
    application = Application(
        [(rf"/[^/]+/{path}", handler, shared) for path, handler in routes],
        default_handler_class=Handler, default_handler_args=shared, log_function=lambda _: None,
    )  # fmt: skip
    try:
        sockets = bind_sockets(port, host)
    except (OSError, OverflowError, UnicodeError) as error:
        problem = f"{host}:{port} cannot be bound ({getattr(error, 'strerror', None) or error})"
        raise UserError("port", problem, "give another port, or none for one that is free") from None
    server = HTTPServer(application)
    server.add_sockets(sockets)
    shown = host if host not in ("", "0.0.0.0", "::") else socket.gethostname()
    ready(f"http://{f'[{shown}]' if ':' in shown else shown}:{sockets[0].getsockname()[1]}/{hub.token}/")
    try:
        await hub.watch()
    finally:
        server.stop()
