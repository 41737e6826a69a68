"""Tests that make sense on one edition of solo-learn only."""

from __future__ import annotations

import pytest

from solo_bam import solo_learn

release_only = pytest.mark.skipif(solo_learn.edition() != "release", reason="of solo-learn's release edition only")
head_only = pytest.mark.skipif(solo_learn.edition() != "head", reason="solo-learn's head edition is not importable")
