"""Shared documents: doc list, get, put, edit, merge, patch, log, diff, watch, remove.

More than 400 lines: one verb after the other, and half of each is its options and its help.
"""

import os
import sys

from ..client import Mailbox
from ..documents.name import document_name
from ..format.address import parse_recipient
from .common import As, Root, path_of
from .options import Annotated, Arg, Opt, count, duration, one_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..documents.document import Document
    from ..documents.version import Version


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) > 0):
        raise ValueError(f'"{text}" is not a version: expected 1, 2, …')
    return int(text)


def _seen(text: str) -> int:
    return 0 if text == "0" else _version(text)


def _gid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ValueError(f'"{text}" is not a group: expected a number, such as 3000')
    return int(text)


def _test(text: str) -> "tuple[str, Any]":
    from ..format import codec

    pointer, equals, value = text.partition("=")
    try:
        if not equals or (pointer and not pointer.startswith("/")):
            raise ValueError
        return pointer, codec.loads(value)
    except ValueError:
        raise ValueError(f'"{text}" is not a test: expected POINTER=JSON, such as /t7/owner=null') from None


Doc = Annotated[str, Arg("DOC", "A document: a word, or up to four joined by slashes.", read=document_name)]
Body = Annotated[str | None, Arg("[BODY]", "The body, JSON unless --text; none, or -, reads standard input.")]
Patch = Annotated[str | None, Arg("[PATCH]", "The patch, JSON; none, or -, reads standard input.")]
Command = Annotated[list[str], Arg("[-- CMD ARG...]", "A command.")]
Record = Annotated[bool, Opt("--json", help="A line of JSON: version, by, at, trust, note, body.")]
Text = Annotated[bool, Opt("--text", help="The body is text, such as Markdown, not JSON.")]
Note = Annotated[str | None, Opt("--note", "-m", metavar="TEXT", help="A line for people: what was changed.")]
Sign = Annotated[bool, Opt("--sign", help="Sign it: readers know that it is from us. [if we have a key]")]
Notify = Annotated[
    list[str],
    Opt(
        "--notify", metavar="TO", read=parse_recipient, help="Send mail of the type document to TO; can be given again."
    ),
]
Attempts = Annotated[
    int, Opt("--attempts", metavar="N", read=count, help="How often to try if others are faster. [100]")
]
MinTrust = Annotated[
    str | None,
    Opt(
        "--min-trust",
        metavar="PROOF",
        read=one_of("none", "uid", "signed"),
        values=("none", "uid", "signed"),
        help="The least proof of an author that is taken. [none]",
    ),
]


def doc_list_(
    *,
    json: Annotated[bool, Opt("--json", help="One line of JSON for each document.")] = False,
    root: Root = None,
) -> None:
    """List the documents: the current version, who wrote it and when.

    Examples:
      mailbox doc list
      mailbox doc list --json | jq -r .name
    """
    from ..documents import upkeep
    from ..format import times
    from ..store.root import find_root
    from . import output

    every = upkeep.inventory(find_root(path_of(root)))
    if json:
        for each in every:
            output.write(output.json(each.as_dict()))
        return
    rows = (
        (
            output.one_line(each.name),
            "?" if each.version is None else str(each.version),
            output.one_line(each.by or ""),
            output.when(times.parse_time(each.at)) if each.at else "",
            "" if each.size is None else str(each.size),
            output.one_line(each.problem or each.note or ""),
        )
        for each in every
    )
    output.table(("DOCUMENT", "VERSION", "BY", "AT", "BYTES", "NOTE"), rows)


def doc_get_(
    name: Doc,
    *,
    version: Annotated[
        int | None, Opt("--version", metavar="N", read=_version, help="An older version. [the current one]")
    ] = None,
    text: Annotated[bool, Opt("--text", help="Print the text as it is; fail if the body is not text.")] = False,
    json: Record = False,
    min_trust: MinTrust = None,
    sender: As = None,
    root: Root = None,
) -> None:
    """Print a document: text as it is, other JSON on one line, indented for people.

    Examples:
      mailbox doc get plan
      mailbox doc get plan --text > plan.md
      mailbox doc get plan --json | jq -r .version
    """
    from ..errors import InvalidBodyError, quoted
    from . import output

    with _to_read(name, sender, root, min_trust) as document:
        found = document.get(version)
    if json:
        output.write(output.json(found.as_dict()))
    elif text:
        if not isinstance(found.body, str):
            raise InvalidBodyError(f"the body of {quoted(name)} is not text", hint="print it as JSON, without --text")
        output.write((output.escape(found.body) if output.is_tty() else found.body).encode())
    else:
        _print_body(found.body)


def doc_put_(
    name: Doc,
    body: Body = None,
    *,
    if_version: Annotated[
        int | None,
        Opt("--if-version", metavar="N", read=_seen, help="Only if N is the current version; 0: if there is none."),
    ] = None,
    create: Annotated[bool, Opt("--create", help="Make the document; fail if there is one.")] = False,
    text: Text = False,
    note: Note = None,
    group: Annotated[
        int | None, Opt("--group", metavar="GID", read=_gid, help="With --create: the group whose members may write.")
    ] = None,
    private: Annotated[bool, Opt("--private", help="With --create: only those who may write may read.")] = False,
    keep: Annotated[
        int | None, Opt("--keep", metavar="N", read=count, help="With --create: how many versions are kept. [1000]")
    ] = None,
    keep_for: Annotated[
        float | None, Opt("--keep-for", metavar="DURATION", read=duration, help="With --create: and how long: 7d …")
    ] = None,
    sign: Sign = False,
    notify: Notify = (),  # type: ignore[assignment]
    sender: As = None,
    root: Root = None,
) -> int:
    """Put a new version of a document, and print its number. Then it survives kill -9 and a power cut.

    Without --if-version it overwrites whatever is current: use it only for what you have not read before. A conflict is
    exit code 73; nothing is written then.

    Examples:
      mailbox doc put plan --create --text < plan.md
      mailbox doc put board '{"t1": {"owner": null}}' --create
      mailbox doc put plan --if-version 41 --text < plan.md
      mailbox doc put plan --text --note "milestone 2 is done" --notify all < plan.md
    """
    from ..errors import InvalidRequestError

    create = create or if_version == 0
    if create and if_version:
        raise InvalidRequestError("--create and --if-version exclude each other")
    if not create and (group is not None or private or keep is not None or keep_for is not None):
        raise InvalidRequestError("--group, --private, --keep and --keep-for are for --create")
    value = _given(body, text)
    with _document(name, sender, root) as document:
        if create:
            made = document.create(
                value, note=note, sign=sign or None, group=group, private=private, keep=keep, keep_for=keep_for
            )
        else:
            made = document.put(value, if_version=if_version, note=note, sign=sign or None)
        return _announce(made, notify, sender, root)


def doc_edit_(
    name: Doc,
    command: Command = (),  # type: ignore[assignment]
    *,
    merge: Annotated[
        bool, Opt("--merge", help="After a conflict, merge what the command printed; do not run it again.")
    ] = False,
    note: Note = None,
    attempts: Attempts = 100,
    sign: Sign = False,
    notify: Notify = (),  # type: ignore[assignment]
    sender: As = None,
    root: Root = None,
) -> int:
    """Change a document by a command, or in $EDITOR. Prints the number of the new version.

    The command gets the current body on its standard input; what it prints is the new body, and the command runs again
    if another writer was faster. If it fails, or changes nothing, nothing is written. Without a command $EDITOR
    opens; what others write meanwhile is merged line by line, and a conflict opens $EDITOR again.

    Examples:
      mailbox doc edit plan -- sed 's/^- \\[ \\] tests/- [x] tests/'
      mailbox doc edit counter -- jq '.n += 1'
      mailbox doc edit plan
    """
    from . import editing

    with _document(name, sender, root) as document:
        options = {"note": note, "sign": sign or None}
        if command:
            made = editing.by_command(document, list(command), attempts, merge, options)
        else:
            made = editing.in_editor(document, attempts, options)
        return _announce(made, notify, sender, root)


def doc_merge_(
    name: Doc,
    patch: Patch = None,
    *,
    test: Annotated[
        list[tuple[str, object]],
        Opt("--test", metavar="POINTER=JSON", read=_test, help="Only if that is there; null: nothing. Again for more."),
    ] = (),  # type: ignore[assignment]
    note: Note = None,
    attempts: Attempts = 100,
    sign: Sign = False,
    notify: Notify = (),  # type: ignore[assignment]
    sender: As = None,
    root: Root = None,
) -> int:
    """Change members of a document by a JSON Merge Patch (RFC 7396). Prints the number of the new version.

    An object goes deeper, null removes a member, all else replaces. It is tried again if another writer was faster.
    A test that fails is exit code 73.

    Examples:
      mailbox doc merge board '{"t7": {"state": "done"}}'
      mailbox doc merge board '{"t7": {"owner": "coder"}}' --test /t7/owner=null
    """
    value = _given(patch, False)
    with _document(name, sender, root) as document:
        made = document.merge(value, test=dict(test), note=note, attempts=attempts, sign=sign or None)
        return _announce(made, notify, sender, root)


def doc_patch_(
    name: Doc,
    patch: Patch = None,
    *,
    note: Note = None,
    attempts: Attempts = 100,
    sign: Sign = False,
    notify: Notify = (),  # type: ignore[assignment]
    sender: As = None,
    root: Root = None,
) -> int:
    """Change a document by a JSON Patch (RFC 6902). Prints the number of the new version.

    It is tried again if another writer was faster. An operation `test` that fails is exit code 73. It needs the
    library jsonpatch: pip install 'filemailbox[patch]'.

    Examples:
      mailbox doc patch board '[{"op": "test", "path": "/t7/owner", "value": null},
        {"op": "replace", "path": "/t7/owner", "value": "coder"}]'
      mailbox doc patch plan < changes.json
    """
    value = _given(patch, False)
    with _document(name, sender, root) as document:
        made = document.patch(value, note=note, attempts=attempts, sign=sign or None)
        return _announce(made, notify, sender, root)


def doc_log_(
    name: Doc,
    *,
    n: Annotated[int | None, Opt("-n", "--count", metavar="N", read=count, help="How many at the most.")] = None,
    json: Annotated[bool, Opt("--json", help="One line of JSON for each version.")] = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """List the versions that are kept, the current one first. Each is proven by the one after it.

    Examples:
      mailbox doc log plan
      mailbox doc log plan -n 1 --json | jq -r .by
    """
    from itertools import islice

    from . import output

    with _to_read(name, sender, root) as document:
        found = islice(document.history(), n)
        if json:
            for each in found:
                output.write(output.json(each.as_dict()))
            return
        rows = (
            (
                str(each.version),
                output.one_line(each.by),
                each.trust,
                output.when(each.at),
                str(len(each.raw)),
                output.one_line(each.note or ""),
            )
            for each in found
        )
        output.table(("VERSION", "BY", "TRUST", "AT", "BYTES", "NOTE"), rows)


def doc_diff_(
    name: Doc,
    old: Annotated[int | None, Arg("[A]", "A version. [the one before B]", read=_version)] = None,
    new: Annotated[int | None, Arg("[B]", "A version. [the current one]", read=_version)] = None,
    *,
    sender: As = None,
    root: Root = None,
) -> int:
    """Show what differs between two versions, as a unified diff. Exit code 1 if something does.

    Examples:
      mailbox doc diff plan
      mailbox doc diff plan 41
      mailbox doc diff plan 41 43
    """
    from ..documents.change import diff
    from . import output

    with _to_read(name, sender, root) as document:
        after = document.get(new)
        before = (
            document.get(old) if old is not None else document.get(after.version - 1) if after.version > 1 else None
        )
    label = f"{name}@{before.version}" if before is not None else "/dev/null"
    text = diff(before.body if before is not None else "", after.body, label, f"{name}@{after.version}")
    output.write((output.escape(text) if output.is_tty() else text).encode())
    return 1 if text else 0


def doc_watch_(
    name: Doc,
    command: Command = (),  # type: ignore[assignment]
    *,
    since: Annotated[
        int | None, Opt("--since", metavar="N", read=_seen, help="Begin with a version after N. [the current one]")
    ] = None,
    n: Annotated[int | None, Opt("-n", "--count", metavar="N", read=count, help="Stop after N versions.")] = None,
    timeout: Annotated[
        float | None,
        Opt(
            "--timeout",
            metavar="DURATION",
            read=duration,
            help="Stop when nothing has come for so long: exit code 124.",
        ),
    ] = None,
    json: Record = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Watch a document: print the current version and each that comes; or run a command for each.

    Versions that come faster than they are handled are left out, but for the last one. The command gets the body on its
    standard input, and MAILBOX_DOCUMENT, _VERSION, _BY, _TRUST, _NOTE and _ROOT in its environment. Exit code 99 of the
    command stops watching; any other but 0 is reported.

    Examples:
      mailbox doc watch plan
      mailbox doc watch plan --since 41 -n 1 --timeout 10m
      mailbox doc watch board -- ./assign.sh
    """
    from . import editing, output

    shown = 0
    with _to_read(name, sender, root) as document:
        for each in document.watch(since, timeout):
            if command:
                code = editing.run_for(each, list(command), document)
                if code == 99:
                    return 0
                if code:
                    output.error(f"the command exited with {code} at version {each.version} of {name}")
            elif json:
                output.write(output.json(each.as_dict()))
            else:
                _print_body(each.body)
                sys.stdout.flush()
            shown += 1
            if n is not None and shown >= n:
                return 0
    return 124


def doc_remove_(name: Doc, *, sender: As = None, root: Root = None) -> None:
    """Remove a document. It is kept aside, and the path is printed, until `mailbox gc --older-than`.

    Examples:
      mailbox doc remove plan
    """
    with _document(name, sender, root) as document:
        print(document.remove())


def _document(name: str, sender: str | None, root: str | None) -> "Document[Any]":
    return Mailbox(sender, path_of(root)).document(name)


def _to_read(name: str, sender: str | None, root: str | None, min_trust: str | None = None) -> "Document[Any]":
    """Return the document to a reader, who need not be an agent."""
    reader = sender or os.environ.get("MAILBOX_AGENT") or "nobody"
    return Mailbox(reader, path_of(root)).document(name, min_trust=min_trust)


def _given(body: str | None, text: bool) -> "Any":
    """Return the body that is meant. Text is taken as it is, to the last newline."""
    from ..errors import InvalidBodyError
    from ..settings import MAX_SIZE
    from . import body as bodies

    try:
        if not text:
            return bodies.given(body, True, allow_empty=True)
        if body is not None and body != "-":
            return body
        if sys.stdin is None:
            raise InvalidBodyError("there is no body: standard input is closed, and none was given")
        return sys.stdin.buffer.read(MAX_SIZE + 1).decode()
    except UnicodeDecodeError as error:
        raise InvalidBodyError(f"the body is not UTF-8 ({error.reason} at byte {error.start})") from None
    except InvalidBodyError as error:
        raise InvalidBodyError(str(error), hint="text such as Markdown is put with --text") from None


def _announce(made: "Version[Any]", notify: "Sequence[str]", sender: str | None, root: str | None) -> int:
    """Print the number of a new version, then notify its watchers. Return the exit code of the first failure."""
    from ..errors import MailboxError
    from . import exit_codes, output

    print(made.version)
    sys.stdout.flush()
    code = 0
    facts = {"document": made.document, "version": made.version, "by": made.by, "note": made.note}
    for to in notify:
        try:
            with Mailbox(sender, path_of(root)) as box:
                box.send(to, facts, type="document", subject=f"{made.document} is at version {made.version}")
        except MailboxError as error:
            output.error(f"{to}: {error}")
            code = code or exit_codes.code(error) or exit_codes.FAILED
    return code


def _print_body(body: "Any") -> None:
    from ..format import codec
    from . import output

    text = output.body(body) if output.is_tty() else body if isinstance(body, str) else codec.dumps(body).decode()
    output.write((text if text.endswith("\n") else text + "\n").encode())
