"""What ``import solo_bam`` offers: runs and comparisons as objects, for notebooks and scripts. No command line."""
