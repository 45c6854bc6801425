"""From argv to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .parse import parse
from .verbs import VERBS, find


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code; what went wrong is told in a sentence on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head`: whoever read us has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        from . import exits, show

        code = exits.code(error)
        if code is None:
            raise
        show.complain(error)
        return code


def _run(words: list[str]) -> int:
    if words and words[0] in VERBS:
        verb = find(words[0])
        values = parse(verb, words[1:])
        if values is not None:
            return verb(**values) or 0
    from .app import read

    return read(words)
