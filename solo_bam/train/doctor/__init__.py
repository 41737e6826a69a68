"""What ``solo-bam doctor`` finds out: about the machine, about a recipe on it, and over two processes."""
