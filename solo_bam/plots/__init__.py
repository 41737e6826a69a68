"""Figures, which need the extra ``plots`` (matplotlib), and the page of features, the extra ``explore`` (Bokeh)."""
