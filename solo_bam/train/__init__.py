"""Pretraining and linear training: the trainer and its callbacks, and ``doctor/``, which looks at a machine and

a recipe before.
"""
