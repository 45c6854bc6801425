"""What can go wrong, as a tree."""

import errno
import inspect
import os
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import filemailbox
from filemailbox import errors
from filemailbox.errors import (
    BoxNotFoundError,
    CrossMountRenameError,
    DiskFullError,
    MailboxError,
    PermissionDeniedError,
    Retry,
    StorageError,
    quoted,
    storage_error,
)


def drawn() -> dict[str, tuple[str, ...]]:
    """The tree in the docstring of the module: each name and those of its bases, in their order."""
    tree: dict[str, tuple[str, ...]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)(\w+)(?: \((\w+)\))?(?:  .*)?", line)
        if match:
            depth = len(match[1]) // 4
            tree[match[2]] = (*above[depth - 1 : depth], *filter(None, [match[3]])) if depth else ("Exception",)
            above[depth:] = [match[2]]
    return tree


def real() -> dict[str, tuple[str, ...]]:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MailboxError)]
    return {kind.__name__: tuple(base.__name__ for base in kind.__bases__) for kind in kinds}


def test_the_tree_that_is_drawn_is_the_tree() -> None:
    """Whoever reads the top of the module knows all there is to catch."""
    assert drawn() == real()


def test_all_that_is_raised_can_be_imported_from_the_package() -> None:
    """Nobody has to know the file."""
    words = {"Retry", "Reject"}

    assert set(real()) | words <= set(filemailbox.__all__)


def test_the_words_of_a_handler_are_no_errors_of_ours() -> None:
    """`except MailboxError` in a handler must not swallow them."""
    assert not issubclass(Retry, MailboxError)
    assert not issubclass(filemailbox.Reject, MailboxError)
    assert (Retry().delay, Retry(3, "busy").delay, str(Retry(3, "busy"))) == (None, 3, "busy")
    assert filemailbox.Reject("no").reason == "no"


@pytest.mark.parametrize(
    ("code", "kind", "says", "hint"),
    [
        pytest.param(errno.ENOSPC, DiskFullError, "volume is full; nothing was delivered", "free some", id="ENOSPC"),
        pytest.param(errno.EDQUOT, DiskFullError, "quota is used up; nothing was delivered", "free some", id="EDQUOT"),
        pytest.param(errno.EACCES, PermissionDeniedError, "permission denied", "ls -ld", id="EACCES"),
        pytest.param(errno.EPERM, PermissionDeniedError, "operation not permitted", "ls -ld", id="EPERM"),
        pytest.param(errno.EROFS, PermissionDeniedError, "read-only file system", "ls -ld", id="EROFS"),
        pytest.param(errno.EXDEV, CrossMountRenameError, "on different mounts", "mount whole boxes", id="EXDEV"),
        pytest.param(errno.EIO, StorageError, "input/output error", None, id="EIO"),
    ],
)
def test_what_the_kernel_said_becomes_a_member_of_the_tree(
    code: int, kind: type[StorageError], says: str, hint: str | None
) -> None:
    """It is an OSError still, with its errno; the sentence begins with what was being done, the hint is apart."""
    error = storage_error(OSError(code, os.strerror(code)), "doing this", "some-id")

    assert type(error) is kind
    assert isinstance(error, OSError)
    assert (error.errno, error.id) == (code, "some-id")
    assert str(error).startswith("doing this: ")
    assert says in str(error)
    assert (error.hint is None) == (hint is None)
    assert hint is None or hint in str(error.hint)
    assert hint is None or hint not in str(error)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        pytest.param([], "there are none yet", id="none"),
        pytest.param(["b", "a"], "there are a, b", id="some"),
        pytest.param([f"a{n:02}" for n in range(20)], "a10, a11 …", id="many"),
    ],
)
def test_an_unknown_box_is_answered_with_those_there_are(known: list[str], says: str) -> None:
    """And with what makes it: a typing error is seen at once."""
    error = BoxNotFoundError("bib", "/mail", known)

    assert str(error).endswith(says)
    assert error.hint == "`mailbox init bib` makes it"
    assert (error.name, error.root, error.known) == ("bib", "/mail", sorted(known))


@pytest.mark.parametrize(
    ("name", "sender", "hint"),
    [
        pytest.param("bobb", None, 'did you mean "bob"?', id="a typing error in our own name"),
        pytest.param("bobb", "alice", 'did you mean "bob"?', id="a typing error"),
        pytest.param("alicf", "alice", "the recipient makes its own box", id="not the sender itself"),
        pytest.param("zed", "alice", "`mailbox agents` lists the boxes", id="another name"),
        pytest.param("zed", "yan", 'neither "zed" nor "yan": is it another volume?', id="another volume"),
        pytest.param("bob", "alice", "`mailbox doctor bob --fix`", id="a folder is missing"),
    ],
)
def test_a_sender_is_led_on_and_never_to_a_box_without_a_reader(name: str, sender: str | None, hint: str) -> None:
    """A box that the sender makes is one that no agent reads."""
    error = BoxNotFoundError(name, "/mail", ["alice", "bob"], sender=sender)

    assert error.hint is not None
    assert hint in error.hint
    assert "init" not in error.hint


@given(st.text() | st.integers() | st.binary())
def test_what_is_quoted_is_safe_to_print(thing: Any) -> None:
    """Control characters, bad UTF-8 and quotes are escaped; what is long is cut."""
    shown = quoted(thing)

    assert shown.isprintable()
    assert shown.removesuffix('…"').isascii()
    assert len(shown) <= 203
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*.?"', shown)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidAddressError("Bob!"),
        errors.BoxNotFoundError("bob", "/mail", ["alice"]),
        errors.TooManyHopsError(17, 16),
        errors.storage_error(OSError(28, "No space left on device"), "writing", "an id"),
        errors.Retry(5, "later"),
        errors.Reject("never"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling(error: Exception) -> None:
    """multiprocessing carries errors between processes: kind, words and facts arrive."""
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own

    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    assert getattr(arrived, "errno", None) == getattr(error, "errno", None)
