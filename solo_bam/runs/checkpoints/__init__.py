"""Checkpoints: read, solo-learn's and the published ones understood, weights exported."""
