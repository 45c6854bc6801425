"""`mailbox`, and `python -m filemailbox`."""

import gc
import sys

from .cli.run import main as run


def main() -> int:
    """Run the command."""
    gc.set_threshold(50_000)  # most commands end before there is anything to collect: to look for it takes them 2 ms
    return run()


if __name__ == "__main__":
    sys.exit(main())
