"""A run's folder and its log, records of what was measured, and in ``checkpoints/`` everything that is known of

a checkpoint.
"""
