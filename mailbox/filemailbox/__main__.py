"""`mailbox`, and `python -m filemailbox`."""

import sys

from .cli.run import main

if __name__ == "__main__":
    sys.exit(main())
