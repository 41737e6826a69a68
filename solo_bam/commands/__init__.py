"""One file per command of ``solo-bam``: thin, the rest works."""
