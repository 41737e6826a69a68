"""Run code around and after the first import of a package, without importing it now."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Loader(Loader):
    """Executes a package as its own loader would, inside ``around`` and followed by ``after``."""

    def __init__(self, loader: Loader, finder: _Finder):
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        sys.meta_path.remove(self.finder)
        with self.finder.around():
            self.loader.exec_module(module)
        self.finder.after()


class _Finder(MetaPathFinder):
    def __init__(
        self, package: str, after: Callable[[], None], around: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.package, self.after, self.around = package, after, around
        self.asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package or self.asking:
            return None
        self.asking = True  # the ordinary finders are to answer
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


def run_after_import(
    package: str,
    after: Callable[[], None],
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Call ``after`` once ``package`` is imported: now if it already is, else when it first is.

    Args:
        package: a top-level package.
        after: called once, with the package in ``sys.modules``.
        around: makes the context in which the package's own code runs.
    """
    if package in sys.modules:
        after()
    elif not any(isinstance(f, _Finder) and f.package == package for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder(package, after, around))
