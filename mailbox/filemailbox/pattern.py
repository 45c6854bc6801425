"""Regular expressions, compiled at their first use: importing `re` takes longer than sending a message."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Pattern:
    """As `re.compile(text, re.ASCII)`, once it is needed."""

    __slots__ = ("_text", "fullmatch", "sub")

    fullmatch: Callable[[Any], Any]
    sub: Callable[[Any, Any], Any]

    def __init__(self, text: str | bytes) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Any:  # reached only as long as its slots are empty
        import re

        compiled: re.Pattern[Any] = re.compile(self._text, re.ASCII)
        self.fullmatch, self.sub = compiled.fullmatch, compiled.sub
        return getattr(compiled, name)
