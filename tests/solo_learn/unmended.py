"""solo-learn with one mend left out."""

from __future__ import annotations


def mending(edition: str | None) -> tuple[str, str]:
    """The modules of ``solo_bam/solo_learn`` that mend an edition."""
    return "patches", "release_patches" if edition == "release" else "head"


def leave_out(name: str) -> None:
    """Import solo-learn with all mends but ``_mend_<name>``."""
    import sys

    assert "solo" not in sys.modules, "solo-learn is already mended"
    import solo_bam.solo_learn as toolkit
    import solo_bam.solo_learn.hook as hook
    from solo_bam.solo_learn.stand_ins import quiet, stand_ins

    edition = toolkit.edition()
    with stand_ins() if edition == "release" else quiet():
        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, hook._Finder)]
        import solo.methods  # noqa: F401
    from importlib import import_module

    modules = [import_module(f"solo_bam.solo_learn.{file}") for file in mending(edition)]
    (module,) = (module for module in modules if hasattr(module, f"_mend_{name}"))
    setattr(module, f"_mend_{name}", lambda: None)
    toolkit._complete()
