"""The settings of a box: how long its mail is tried and kept. Its owner sets them once, for all its consumers.

    bob/settings.json    {"max_attempts": 20, "retention": 604800}

A consumer reads them when it opens the box, and its own settings come first. Only what the owner of the box wrote
counts. `keys` is true once a consumer of the box had a key of its own: from then on one without a key is misconfigured.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial

from ..errors import InvalidRequestError, StorageError, quoted, storage_error
from ..format import codec
from ..system import as_owner
from ..system.as_owner import opened
from ..system.files import READ, close
from ..system.strict_read import strict_read
from .layout import SENT, SENT_MODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .root import Box

SETTINGS: Final = "settings.json"

COUNTS: Final = ("max_attempts",)
SPANS: Final = ("retry_delay", "max_retry_delay", "retention", "expired_retention", "dead_retention")
"""Settings in seconds. `retention` is of handled mail, `expired_retention` of dead letters that expired."""

SWITCHES: Final = ("keys",)

_LIMIT: Final = 65536
_LONGEST: Final = 100 * 366 * 86400.0  # seconds: longer spans are mistakes, and overflow times


def read_box_settings(box: Box) -> dict[str, Any]:
    """Return the settings of *box*, by name; {} if it has none, or is not there.

    Raises InvalidRequestError for settings that cannot be, StorageError if the file cannot be read or trusted.
    """
    path = f"{box}/{SETTINGS}"
    try:
        fd = os.open(path, READ)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise storage_error(error, f"reading {quoted(path)}") from error
    try:
        data, st, refusal = strict_read(fd, _LIMIT)
        owner = os.stat(box.path).st_uid
    except OSError as error:
        raise storage_error(error, f"reading {quoted(path)}") from error
    finally:
        close(fd)
    if refusal is not None:
        raise StorageError(f"{quoted(path)} cannot be used: {refusal.reason}", errno.EINVAL)
    if st.st_uid != owner:
        raise StorageError(f"{quoted(path)} belongs to the uid {st.st_uid}, and the box to {owner}", errno.EPERM)
    try:
        found = codec.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError(f"{quoted(path)} is not a JSON object", hint="`mailbox init` writes settings")
    return checked(found, path)


def checked(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Return those of *settings* that are known. Raises InvalidRequestError for a value that cannot be."""
    known = {name: settings[name] for name in (*COUNTS, *SPANS, *SWITCHES) if settings.get(name) is not None}
    for name, value in known.items():
        if name in COUNTS:
            fits, wanted = type(value) is int and 1 <= value <= 1_000_000, "a number from 1 on"
        elif name in SPANS:
            fits, wanted = type(value) in (int, float) and 0 <= value <= _LONGEST, "a number of seconds"
        else:
            fits, wanted = type(value) is bool, "true or false"
        if not fits:
            raise InvalidRequestError(f"{quoted(name)} of {quoted(source)} is {quoted(value)}, expected {wanted}")
    return known


def write_box_settings(box: Box, changes: dict[str, Any]) -> dict[str, Any]:
    """Change these settings of *box*, None removes one. Returns them all. After a crash they are the old or the new.

    Raises InvalidRequestError, BoxNotFoundError, StorageError.
    """
    checked({name: value for name, value in changes.items() if value is not None}, "the settings")
    try:
        with opened(box.path) as folder:
            before = read_box_settings(box)
            merged = {**before, **changes}
            now = {name: value for name, value in merged.items() if value is not None}
            if now != before:
                as_owner.call(folder, partial(_write, folder, codec.dumps(now, None, codec.LINE), "retention" in now))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        if isinstance(error, FileNotFoundError):
            raise box.missing() from error
        raise storage_error(error, f"writing the settings of the box {quoted(box.address)}") from error
    return now


def _write(folder: int, data: bytes, keeps: bool) -> None:
    """As the owner of an open box."""
    draft = f".{SETTINGS}.{os.urandom(6).hex()}"
    fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=folder)
    try:
        os.write(fd, data)
        os.fchmod(fd, 0o644)
        os.fsync(fd)
    finally:
        close(fd)
    os.rename(draft, SETTINGS, src_dir_fd=folder, dst_dir_fd=folder)
    if keeps:
        with contextlib.suppress(FileExistsError):
            os.mkdir(SENT, SENT_MODE, dir_fd=folder)
