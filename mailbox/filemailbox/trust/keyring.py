"""The keys that one agent uses: its own, and the pinned or registered ones of others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..errors import InsecureKeyFileError, KeyChangedError, KeyNotFoundError, quoted
from ..format.address import Address, is_address
from ..format.timestamp import sent_time
from ..store.root import Root
from . import seal
from .key_files import PrivateKeys, PublicKeys, read_vouched, refuse_inside, write_key_file


class Keyring:
    """The keys of one agent's mailbox: its own, and the pinned or registered ones of others."""

    def __init__(self, agent: Address, root: Root | None, folder: str | None, registry: str | None) -> None:
        self.agent, self.root, self.folder, self.registry = agent, root, folder, registry
        self._own: PrivateKeys | None = None
        self._own_version: tuple[int, ...] | None = None  # of the file when it was read
        self._read_files: dict[str, tuple[tuple[int, ...], PublicKeys]] = {}

    @property
    def path(self) -> str:
        """The file of our own keys. Raises KeyNotFoundError if no folder for it is known."""
        if self.folder is None:
            raise KeyNotFoundError(
                f"there is no folder with {self.agent}.key: no folder of keys was named",
                hint="set MAILBOX_KEY_DIR or key_dir=",
            )
        return f"{self.folder}/{self.agent}.key"

    def seal(self, to: str, id: str, line: bytes) -> bytes:
        """Return the message *line*, sealed for *to*. Raises KeyNotFoundError if our key or theirs is missing."""
        own, key = self.own(), self.public(to).encryption_keys[0]
        hints = {"v": seal.VERSION, "id": id, "from": self.agent, "to": to, "sent": sent_time(id)}
        return seal.seal(line, hints, own.public.signing_key, own.sign, key)

    def sign(self, line: bytes) -> bytes:
        """Return the message *line*, signed by us. Raises KeyNotFoundError if we have no key."""
        own = self.own()
        return seal.signed(line, own.public.signing_key, own.sign)

    @property
    def has_own(self) -> bool:
        """True if this agent has a private key."""
        return self.folder is not None and _is_there(self.path)

    def own(self) -> PrivateKeys:
        """Return our own keys, read again if the file changed. Raises KeyNotFoundError, InsecureKeyFileError."""
        path = self.path
        try:
            st = os.stat(path)
            version: tuple[int, ...] | None = (st.st_dev, st.st_ino, st.st_mtime_ns, st.st_ctime_ns)
        except OSError:
            version = None  # load() reports the reason
        if self._own is None or version != self._own_version:
            own = PrivateKeys.load(path, self.root)
            if own.agent != self.agent:
                raise InsecureKeyFileError(
                    f"{quoted(path)} holds the keys of {quoted(own.agent)}, not of {quoted(self.agent)}"
                )
            self._own, self._own_version = own, version
        return self._own

    def public(self, name: str) -> PublicKeys:
        """Return the public keys of *name*: pinned, registered, or our own. Raises KeyNotFoundError."""
        found = self.pinned(name)
        if found is None and name == self.agent and self.has_own:
            found = self.own().public
        if found is None:
            raise KeyNotFoundError(f"no key of {quoted(name)} is pinned", hint=seal.PIN_HINT)
        return found

    def signing_key(self, name: str) -> bytes | None:
        """Return the signing key of *name*, or None if it is unknown."""
        try:
            return self.public(name).signing_key
        except KeyNotFoundError:
            return None

    def pinned(self, name: str) -> PublicKeys | None:
        """Return the pinned or registered public keys of *name*, or None.

        Raises InsecureKeyFileError if such a file cannot be trusted or read, KeyChangedError if the two differ.
        """
        found = [public for path in self._places(name) if (public := self._read(path, name)) is not None]
        if len({public.signing_key for public in found}) > 1:
            raise KeyChangedError(
                f"the registry and the pins hold different keys of {quoted(name)}", hint="find out which one is wrong"
            )
        if not found:
            self._refuse_missing()
        return found[0] if found else None

    def _refuse_missing(self) -> None:
        """Raise InsecureKeyFileError if a named folder does not exist: an unmounted one must not pass for empty."""
        for folder in (self.folder, self.registry):
            if folder is not None and not os.path.isdir(folder):
                raise InsecureKeyFileError(
                    f"the folder of keys {quoted(folder)} does not exist", hint="check that it is mounted"
                )

    def pin(self, public: PublicKeys) -> bool:
        """Trust these keys. Returns False if they are pinned already. Raises KeyChangedError if others are pinned."""
        name = public.agent
        path = self._pin(name)
        refuse_inside(path, self.root)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        known = self.pinned(name)
        if known == public:
            return False
        if known is not None:
            raise KeyChangedError(
                f"other keys of {quoted(name)} are pinned: {known.fingerprint}",
                hint=f"if the change is real, `mailbox keys unpin {name}` first; the operator changes the registry",
            )
        write_key_file(path, public.line(), 0o600, os.O_EXCL)
        return True

    def unpin(self, name: Address) -> None:
        """Remove the pinned keys of *name*. Raises KeyNotFoundError if none are pinned."""
        try:
            os.unlink(self._pin(name))
        except FileNotFoundError:
            raise KeyNotFoundError(
                f"no key of {quoted(name)} is pinned in {quoted(os.path.dirname(self._pin(name)))}"
            ) from None

    def known(self) -> Iterator[tuple[PublicKeys, str]]:
        """Yield all registered and pinned keys, each with its folder; sorted by name within a folder."""
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                for filename in sorted(os.listdir(folder)):
                    name, dot, suffix = filename.rpartition(".")
                    if dot and suffix == "pub" and is_address(name):
                        public = self._read(f"{folder}/{filename}", name)
                        if public is not None:
                            yield public, folder

    def _folders(self) -> list[str]:
        pins = [f"{self.folder}/pins"] if self.folder is not None else []
        return [*([self.registry] if self.registry is not None else []), *pins]

    def _places(self, name: str) -> list[str]:
        return [f"{folder}/{name}.pub" for folder in self._folders()] if is_address(name) else []

    def _pin(self, name: Address) -> str:
        if self.folder is None:
            raise KeyNotFoundError("there is no folder for pins", hint="set MAILBOX_KEY_DIR or key_dir=")
        return f"{self.folder}/pins/{name}.pub"

    def _read(self, path: str, name: str) -> PublicKeys | None:
        try:
            st = os.stat(path)
            version = (st.st_dev, st.st_ino, st.st_mtime_ns, st.st_ctime_ns, st.st_size)
            before, public = self._read_files.get(path, ((), None))
            if before == version and public is not None:
                return public
            public = PublicKeys.read(read_vouched(path, self.root), path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InsecureKeyFileError(
                f"{quoted(path)} cannot be read: {(error.strerror or str(error)).lower()}"
            ) from error
        if public.agent != name:
            raise InsecureKeyFileError(
                f"{quoted(path)} holds the keys of {quoted(public.agent)}, not of {quoted(name)}"
            )
        self._read_files[path] = (version, public)
        return public


def _is_there(path: str) -> bool:
    """Return True if the file exists. Raises InsecureKeyFileError if that is unknown: it must not pass for "no key"."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InsecureKeyFileError(
            f"{quoted(path)} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    return True
