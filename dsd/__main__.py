"""`python -m dsd` is `dsd`."""

import sys

from dsd.cli import main

if __name__ == "__main__":
    sys.exit(main())
