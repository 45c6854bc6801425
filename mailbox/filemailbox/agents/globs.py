"""Globs of files: check them, and decide whether two can name the same file. Pure.

    *     any characters but a slash          ?     one of them
    [ab]  one of these, [!ab] none of them    **    any number of folders, as a part of its own

A glob also covers what is below the path that it names: `src` covers `src/a.py`. But a `**` that matches a part of
another glob does not make that a folder: `**/*.py` and `README.md` do not overlap. Both sides may be globs: the
libraries match names against one glob, and cannot compare two.
"""

from __future__ import annotations

from functools import cache

from ..errors import InvalidRequestError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Sign: TypeAlias = str | tuple[bool, tuple[tuple[str, str], ...]]
    Parts: TypeAlias = tuple[tuple[Sign, ...], ...]

MAX_LENGTH: Final = 200
"""The longest glob, in characters: comparing two takes time in proportion to the product of their lengths."""

_STAR: Final = "*"
_DEEP: Final = ("**",)
_ANY: Final = (True, ())
"""A sign that is any character: none of an empty set."""


def parse_glob(text: str) -> str:
    """Return the glob in its one spelling: no `./`, no doubled or last slash. Raises InvalidRequestError."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not text.isprintable() or len(text) > MAX_LENGTH or not parts or ".." in parts:
        raise InvalidRequestError(
            f"{quoted(text[:MAX_LENGTH])} is not a glob of files: expected a path of at most {MAX_LENGTH} printable "
            "characters without .., such as src/**, docs/*.md or Makefile"
        )
    return "/" * text.startswith("/") + "/".join(parts)


def overlap(one: str, other: str) -> bool:
    """Return whether two globs can name the same file, or a file below what the other one names."""
    if one.startswith("/") != other.startswith("/"):
        return False
    return _paths_meet(_parts(one), _parts(other))


def covers_file(glob: str, path: str) -> bool:
    """Return whether a glob covers the file *path*, whose characters all stand for themselves."""
    if glob.startswith("/") != path.startswith("/"):
        return False
    literal = (part for part in path.split("/") if part not in ("", "."))
    parts = tuple(tuple((False, ((sign, sign),)) for sign in part) for part in literal)
    return _paths_meet(_parts(glob), parts, is_file=True)


def _parts(glob: str) -> Parts:
    return tuple(_DEEP if part == "**" else _signs(part) for part in glob.split("/") if part)


def _signs(part: str) -> tuple[Sign, ...]:
    """Return the signs of one part: `*`, or a set of characters. A bracket that does not close is a character."""
    signs: list[Sign] = []
    at = 0
    while at < len(part):
        sign, at = part[at], at + 1
        end = part.find("]", at + 1 + part.startswith("!", at)) if sign == "[" else -1
        if sign == "*":
            if signs[-1:] != [_STAR]:
                signs.append(_STAR)
        elif sign == "?":
            signs.append(_ANY)
        elif end > 0:
            negated = part[at] == "!"
            signs.append((negated, _ranges(part[at + negated : end])))
            at = end + 1
        else:
            signs.append((False, ((sign, sign),)))
    return tuple(signs)


def _ranges(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    while text:
        if len(text) > 2 and text[1] == "-":
            found.append((text[0], text[2]))
            text = text[3:]
        else:
            found.append((text[0], text[0]))
            text = text[1:]
    return tuple(found)


def _paths_meet(one: Parts, other: Parts, *, is_file: bool = False) -> bool:
    """Return whether some path is matched by both. If *is_file*, *other* is the path of a file, with nothing below."""

    @cache
    def meet(i: int, j: int, deep_one: bool, deep_other: bool) -> bool:
        """*deep_one*: a `**` of *one* has taken a part of *other*; *deep_other* likewise."""
        if i == len(one):
            return not deep_other or all(part == _DEEP for part in other[j:])
        if j == len(other):
            return not (deep_one or is_file) or all(part == _DEEP for part in one[i:])
        if one[i] == _DEEP and (meet(i + 1, j, deep_one, deep_other) or meet(i, j + 1, True, deep_other)):
            return True
        if other[j] == _DEEP and (meet(i, j + 1, deep_one, deep_other) or meet(i + 1, j, deep_one, True)):
            return True
        if _DEEP in (one[i], other[j]):
            return False
        return _parts_meet(one[i], other[j]) and meet(i + 1, j + 1, deep_one, deep_other)

    return meet(0, 0, False, False)


def _parts_meet(one: tuple[Sign, ...], other: tuple[Sign, ...]) -> bool:
    """Return whether some text is matched by both: a walk over the pairs of places, each visited once."""
    seen = {(0, 0)}
    todo = [(0, 0)]
    while todo:
        i, j = todo.pop()
        if i == len(one) and j == len(other):
            return True
        left = one[i] if i < len(one) else None
        right = other[j] if j < len(other) else None
        steps = []
        if left == _STAR:
            steps += [(i + 1, j)] + ([(i, j + 1)] if right is not None else [])
        if right == _STAR:
            steps += [(i, j + 1)] + ([(i + 1, j)] if left is not None else [])
        if left is not None and right is not None and _STAR not in (left, right) and _signs_meet(left, right):
            steps.append((i + 1, j + 1))
        todo += [step for step in steps if step not in seen]
        seen.update(steps)
    return False


def _signs_meet(one: Sign, other: Sign) -> bool:
    assert isinstance(one, tuple)
    assert isinstance(other, tuple)
    if one[0] and other[0]:
        return True  # some character is in neither set
    if one[0] or other[0]:
        (_, outside), (_, inside) = (one, other) if one[0] else (other, one)
        return any(
            not any(low <= sign <= high for low, high in outside)
            for first, last in inside
            for sign in (first, last, *(chr(ord(high) + 1) for low, high in outside if first <= high < last))
        )
    return any(max(a, c) <= min(b, d) for a, b in one[1] for c, d in other[1])
