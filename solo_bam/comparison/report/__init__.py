"""A comparison's tables, figures and page."""
