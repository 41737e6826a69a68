"""``python -m solo_bam``."""

import sys

from solo_bam.cli import main

if __name__ == "__main__":
    sys.exit(main())
