"""Ways to change a body: merge patch, JSON patch, three-way merge; and what differs between two. Pure.

The libraries jsonpatch and merge3 come with the extra `patch`; each is imported where it is used.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from ..errors import InvalidBodyError, InvalidRequestError, MailboxError, quoted
from ..format import codec

INSTALL: Final = "`pip install 'filemailbox[patch]'` installs it"


class PatchTestError(MailboxError):
    """A test of a patch failed: the document is not as the patch expects."""


def merge_patch(target: Any, patch: Any) -> Any:
    """Return *target* changed by *patch*, a JSON Merge Patch (RFC 7396).

    A null removes a member, an object goes deeper, all else replaces.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for member, value in patch.items():
        if value is None:
            merged.pop(member, None)
        else:
            merged[member] = merge_patch(merged.get(member), value)
    return merged


def at_pointer(body: Any, pointer: str) -> Any:
    """Return the value at a JSON Pointer (RFC 6901), or None if there is none. Raises InvalidRequestError."""
    if pointer and not pointer.startswith("/"):
        raise InvalidRequestError(f"{quoted(pointer)} is not a JSON Pointer: expected one such as /tasks/t7/owner")
    for step in pointer.split("/")[1:]:
        word = step.replace("~1", "/").replace("~0", "~")
        if isinstance(body, dict):
            body = body.get(word)
        elif isinstance(body, list) and word.isascii() and word.isdigit() and len(word) < 10 and int(word) < len(body):
            body = body[int(word)]
        else:
            return None
    return body


def check_tests(body: Any, tests: dict[str, Any]) -> None:
    """Check that *body* has these values at these JSON Pointers; None means no value. Raises PatchTestError."""
    for pointer, expected in tests.items():
        found = at_pointer(body, pointer)
        if not _same(found, expected):
            raise PatchTestError(f"{quoted(pointer)} is {_short(found)}, expected {_short(expected)}")


def json_patch(target: Any, patch: Any) -> Any:
    """Return *target* changed by *patch*, a JSON Patch (RFC 6902): a list of operations.

    Raises PatchTestError if an operation `test` fails, InvalidRequestError for what is no patch or does not fit.
    """
    try:
        import jsonpatch
    except ImportError as error:
        raise MailboxError(f"JSON Patch needs the library jsonpatch: {INSTALL}") from error
    if not isinstance(patch, list):
        raise InvalidRequestError(
            "a JSON Patch is a list of operations, such as "
            '[{"op":"test","path":"/n","value":1},{"op":"replace","path":"/n","value":2}]'
        )
    try:
        return jsonpatch.JsonPatch(patch).apply(target)
    except jsonpatch.JsonPatchTestFailed as error:
        raise PatchTestError(" ".join(str(error).split())) from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, ValueError) as error:
        raise InvalidRequestError(f"the patch does not fit the document: {' '.join(str(error).split())}") from error


def as_text(body: Any) -> str:
    """Return a body as text to read and edit: a string as it is, other JSON indented."""
    return body if isinstance(body, str) else codec.dumps(body, None, codec.INDENT).decode() + "\n"


def from_text(text: str, like: Any) -> Any:
    """Return the body that *text* means: text if *like* is text, else JSON. Raises InvalidBodyError."""
    if isinstance(like, str):
        return text
    try:
        return codec.loads(text)
    except ValueError as error:
        raise InvalidBodyError(f"the text is not JSON: {error}") from None


def three_way(base: str, ours: str, theirs: str, name_ours: str, name_theirs: str) -> tuple[str, bool]:
    """Return *ours* and *theirs*, both made from *base*, merged line by line; and whether that left no conflict.

    A conflict is shown as git shows it: both sides between marks. Raises MailboxError if merge3 is not installed.
    """
    try:
        from merge3 import Merge3
    except ImportError as error:
        raise MailboxError(f"a three-way merge needs the library merge3: {INSTALL}") from error
    merge = Merge3(base.splitlines(True), ours.splitlines(True), theirs.splitlines(True))
    groups = list(merge.merge_groups())
    lines = merge.merge_lines(name_a=name_ours, name_b=name_theirs, reprocess=False)
    return "".join(map(str, lines)), all(group[0] != "conflict" for group in groups)


def diff(old: Any, new: Any, name_old: str, name_new: str) -> str:
    """Return what differs between two bodies, as a unified diff."""
    before, after = as_text(old).splitlines(True), as_text(new).splitlines(True)
    lines = difflib.unified_diff(before, after, name_old, name_new)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return codec.dumps(_sorted(one)) == codec.dumps(_sorted(other)) or (
        type(one) in (int, float) and type(other) in (int, float) and one == other
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = codec.dumps(value).decode() if value is not None else "null, or not there"
    return text if len(text) <= 80 else f"{text[:80]}…"
