"""Tests that make sense on one edition of solo-learn only."""

from __future__ import annotations

import pytest

from solo_bam import toolkit

release_only = pytest.mark.skipif(toolkit.edition() != "release", reason="of solo-learn's release edition only")
head_only = pytest.mark.skipif(toolkit.edition() != "head", reason="solo-learn's head edition is not importable")
