"""Augmentations: their law, their random decisions, and the operations on tensors."""
