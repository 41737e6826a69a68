"""Comparing methods: what is run, whether it is fair, what came out, and how it is shown."""
