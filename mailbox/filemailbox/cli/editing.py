"""Changing a document by a command or in an editor, and running a command for each version."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile

from ..documents.change import as_text, from_text, three_way
from ..errors import ConflictError, InvalidBodyError, InvalidRequestError, MailboxError, quoted
from ..format import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..documents.document import Document
    from ..documents.version import Version

_LONGEST = 1024  # bytes of a note in the environment


def by_command(
    document: Document[Any], command: Sequence[str], attempts: int, merge: bool, options: dict[str, Any]
) -> Version[Any]:
    """Put what *command* makes of the current body; run it again, or merge what it printed, after a conflict."""
    base = document.get()
    value = _run(command, base.body)
    for attempt in range(attempts):
        if value == base.body:
            return base
        try:
            return document.put(value, if_version=base.version, **options)
        except ConflictError:
            if attempt + 1 >= attempts:
                raise
        current = document.get()
        if not merge:
            base = current
            value = _run(command, base.body)
            continue
        text, clean = _merged(base, as_text(value), current)
        if not clean:
            raise ConflictError(
                f"{quoted(document.name)} is at version {current.version} by {current.by}, and what the command "
                "printed cannot be merged with it: nothing was written",
                current,
                hint="without --merge the command runs again",
            )
        base, value = current, from_text(text, current.body)
    raise InvalidRequestError("--attempts must be at least 1")


def in_editor(document: Document[Any], attempts: int, options: dict[str, Any]) -> Version[Any]:
    """Put what the user makes of the current body in $EDITOR; what others write meanwhile is merged."""
    from . import output

    base = document.get()
    shown = as_text(base.body)
    suffix = ".md" if isinstance(base.body, str) else ".json"
    with tempfile.NamedTemporaryFile("w", prefix="mailbox-doc-", suffix=suffix, delete=False) as file:
        file.write(shown)
    try:
        for _ in range(attempts):
            edited = _edit(file.name)
            if edited == shown == as_text(base.body):
                os.unlink(file.name)
                output.info("nothing was changed")
                return base
            made, base, shown = _settle(document, base, edited, options)
            if made is not None:
                os.unlink(file.name)
                return made
            with open(file.name, "w") as again:
                again.write(shown)
            output.info(
                f"version {base.version} by {base.by} changes the same lines: they stand between <<<<<<< and >>>>>>>"
            )
    except BaseException:
        if os.path.exists(file.name):
            output.info(f"nothing was written; your text is kept in {file.name}")
        raise
    raise ConflictError(
        f"{quoted(document.name)} changed {attempts} times while it was edited",
        base,
        hint=f"your text is kept in {file.name}",
    )


def run_for(version: Version[Any], command: Sequence[str], document: Document[Any]) -> int:
    """Run *command* for a version: the body on its standard input, facts in its environment. Return its exit code."""
    facts = {
        "MAILBOX_DOCUMENT": version.document,
        "MAILBOX_VERSION": str(version.version),
        "MAILBOX_BY": version.by,
        "MAILBOX_TRUST": version.trust,
        "MAILBOX_NOTE": _clean(version.note or ""),
        "MAILBOX_ROOT": document.root.path,
    }
    environment = {**os.environ, **facts}
    try:
        done = subprocess.run(command, input=_input(version.body), env=environment, check=False)
    except OSError as error:
        raise MailboxError(f"the command {quoted(command[0])} cannot be run: {error.strerror}") from error
    return done.returncode


def _settle(
    document: Document[Any], base: Version[Any], edited: str, options: dict[str, Any]
) -> tuple[Version[Any] | None, Version[Any], str]:
    """Put *edited*, merged with what others wrote. Return the version, the next base, and the text to go on with.

    The version is None if the merge left a conflict.
    """
    while True:
        try:
            return document.put(from_text(edited, base.body), if_version=base.version, **options), base, edited
        except ConflictError:
            current = document.get()
            edited, clean = _merged(base, edited, current)
            base = current
            if not clean:
                return None, current, edited


def _merged(base: Version[Any], ours: str, theirs: Version[Any]) -> tuple[str, bool]:
    return three_way(
        as_text(base.body), ours, as_text(theirs.body), "yours", f"version {theirs.version} by {theirs.by}"
    )


def _run(command: Sequence[str], body: Any) -> Any:
    """Return what *command* makes of a body. Raises MailboxError if it fails."""
    try:
        done = subprocess.run(command, input=_input(body), stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise MailboxError(f"the command {quoted(command[0])} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise MailboxError(f"the command {quoted(command[0])} exited with {done.returncode}: nothing was written")
    try:
        return from_text(done.stdout.decode(), body)
    except UnicodeDecodeError as error:
        raise InvalidBodyError(f"the command printed what is not UTF-8: {error}") from None


def _edit(path: str) -> str:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), path], stdout=sys.stderr, check=False).returncode
    except (OSError, ValueError) as error:
        raise MailboxError(
            f"the editor {quoted(editor)} cannot be run: {error}", hint="EDITOR names another"
        ) from error
    if code:
        raise MailboxError(f"the editor {quoted(editor)} exited with {code}")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise InvalidBodyError(f"the text is not UTF-8: {error}") from None


def _input(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else codec.dumps(body, None, codec.LINE)


def _clean(text: str) -> str:
    """Safe in an environment, where control characters and great lengths surprise programs."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown.encode()[:_LONGEST].decode("utf-8", "ignore")
