"""A page over the runs and comparisons below a folder, served to a browser on this machine: it reads, and never writes.

``page/`` is what the browser gets. Needs the extra ``board``: tornado serves, Bokeh draws.
"""
