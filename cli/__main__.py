"""``python -m m2o_fast.cli`` is ``m2o-fast``."""

import sys

from m2o_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
