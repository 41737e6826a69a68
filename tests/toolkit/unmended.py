"""solo-learn 1.0.2 with one mend left out."""

from __future__ import annotations


def leave_out(name: str) -> None:
    """Import solo-learn with all mends of ``toolkit/release.py`` but ``_mend_<name>``."""
    import sys

    assert "solo" not in sys.modules, "solo-learn is already mended"
    from solo_bam.toolkit.stand_ins import stand_ins

    with stand_ins():
        import solo_bam.toolkit.hook as hook

        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, hook._Finder)]
        import solo.methods  # noqa: F401
    import solo_bam.toolkit.release as release

    assert hasattr(release, f"_mend_{name}")
    setattr(release, f"_mend_{name}", lambda: None)
    import solo_bam.toolkit as toolkit

    toolkit._complete()
