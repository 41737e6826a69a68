"""Figures; needs the extra ``plots`` (matplotlib)."""
