"""Regular expressions, compiled at their first use.

Importing `re` takes a third of the time in which `mailbox send` does its work, and most sends need no expression.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable


class Pattern:
    """`re.compile(text, re.ASCII)`, as far as it is used here."""

    __slots__ = ("_text", "fullmatch", "sub")

    fullmatch: Callable[[str], re.Match[str] | None]
    sub: Callable[[str | Callable[[re.Match[str]], str], str], str]

    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> object:  # called only while its slots are empty
        import re

        compiled = re.compile(self._text, re.ASCII)
        self.fullmatch, self.sub = compiled.fullmatch, compiled.sub
        return getattr(compiled, name)
