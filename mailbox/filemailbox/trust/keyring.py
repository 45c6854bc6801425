"""The keys that one agent uses: its own, and those of others that are pinned or registered."""

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
    """The keys that one agent's mailbox goes by: its own, and those of others that are pinned or registered."""

    def __init__(self, agent: Address, root: Root | None, folder: str | None, registry: str | None) -> None:
        self.agent, self.root, self.folder, self.registry = agent, root, folder, registry
        self._own: PrivateKeys | None = None
        self._own_as: tuple[int, ...] | None = None  # what the file was when it was read
        self._seen: dict[str, tuple[tuple[int, ...], PublicKeys]] = {}

    @property
    def path(self) -> str:
        """The file of our own keys. Raises KeyNotFoundError where no folder for it is known."""
        if self.folder is None:
            raise KeyNotFoundError(
                f"no folder of keys is named: MAILBOX_KEY_DIR names it, and {self.agent}.key lies there"
            )
        return f"{self.folder}/{self.agent}.key"

    def seal(self, to: str, id: str, line: bytes) -> bytes:
        """The message *line*, sealed for *to*. Raises KeyNotFoundError where a key is missing, ours or theirs."""
        own, key = self.own(), self.public(to).encryption_keys[0]
        hints = {"v": seal.VERSION, "id": id, "from": self.agent, "to": to, "sent": sent_time(id)}
        return seal.seal(line, hints, own.public.signing_key, own.sign, key)

    def sign(self, line: bytes) -> bytes:
        """The message *line*, signed by us. Raises KeyNotFoundError where there is no key of ours."""
        own = self.own()
        return seal.signed(line, own.public.signing_key, own.sign)

    @property
    def has_own(self) -> bool:
        """Whether there is a private key of ours."""
        return self.folder is not None and _is_there(self.path)

    def own(self) -> PrivateKeys:
        """Our own keys, read anew where they were rotated. Raises KeyNotFoundError where there are none, "
        "InsecureKeyFileError."""
        path = self.path
        try:
            facts = os.stat(path)
            now: tuple[int, ...] | None = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
        except OSError:
            now = None  # load() says what is wrong with it
        if self._own is None or now != self._own_as:
            own = PrivateKeys.load(path, self.root)
            if own.agent != self.agent:
                raise InsecureKeyFileError(
                    f"{quoted(path)} holds the keys of {quoted(own.agent)}, not of {quoted(self.agent)}"
                )
            self._own, self._own_as = own, now
        return self._own

    def public(self, name: str) -> PublicKeys:
        """The public keys of *name*: pinned, registered, or our own. Raises KeyNotFoundError where there are none."""
        found = self.pinned(name)
        if found is None and name == self.agent and self.has_own:
            found = self.own().public
        if found is None:
            raise KeyNotFoundError(f"no key of {quoted(name)} is pinned: `mailbox keys pin NAME FILE` does that")
        return found

    def signing_key(self, name: str) -> bytes | None:
        """The signing key of *name*, or None where none is known."""
        try:
            return self.public(name).signing_key
        except KeyNotFoundError:
            return None

    def pinned(self, name: str) -> PublicKeys | None:
        """The public keys of *name*, where others vouch for them: pinned or registered.

        Raises InsecureKeyFileError where such a file cannot be trusted or read, KeyChangedError where the two differ.
        """
        found = [public for path in self._places(name) if (public := self._read(path, name)) is not None]
        if len({public.signing_key for public in found}) > 1:
            raise KeyChangedError(
                f"the registry and the pins know different keys of {quoted(name)}: one of them is wrong"
            )
        if not found:
            self._refuse_missing()
        return found[0] if found else None

    def _refuse_missing(self) -> None:
        """A folder that was named and is not there, perhaps not mounted, must not pass for one without pins."""
        for folder in (self.folder, self.registry):
            if folder is not None and not os.path.isdir(folder):
                raise InsecureKeyFileError(
                    f"{quoted(folder)} is not there, and keys were to be found in it: is it mounted?"
                )

    def pin(self, public: PublicKeys) -> bool:
        """Trust these keys. Returns False where that is so already. Raises KeyChangedError where others are pinned."""
        name = public.agent
        path = self._pin(name)
        refuse_inside(path, self.root)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        known = self.pinned(name)
        if known == public:
            return False
        if known is not None:
            raise KeyChangedError(
                f"other keys of {quoted(name)} are pinned ({known.fingerprint}): if the change is real, "
                f"`mailbox keys unpin {name}` comes first; the operator changes those of the registry"
            )
        write_key_file(path, public.line(), 0o600, os.O_EXCL)
        return True

    def unpin(self, name: Address) -> None:
        """Trust the pinned keys of *name* no more. Raises KeyNotFoundError where none are pinned."""
        try:
            os.unlink(self._pin(name))
        except FileNotFoundError:
            raise KeyNotFoundError(
                f"no key of {quoted(name)} is pinned in {quoted(os.path.dirname(self._pin(name)))}"
            ) from None

    def known(self) -> Iterator[tuple[PublicKeys, str]]:
        """All that are pinned or registered, and where; sorted by name within each."""
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                for text in sorted(os.listdir(folder)):
                    name, dot, suffix = text.rpartition(".")
                    if dot and suffix == "pub" and is_address(name):
                        public = self._read(f"{folder}/{text}", name)
                        if public is not None:
                            yield public, folder

    def _folders(self) -> list[str]:
        pins = [f"{self.folder}/pins"] if self.folder is not None else []
        return [*([self.registry] if self.registry is not None else []), *pins]

    def _places(self, name: str) -> list[str]:
        return [f"{folder}/{name}.pub" for folder in self._folders()] if is_address(name) else []

    def _pin(self, name: Address) -> str:
        if self.folder is None:
            raise KeyNotFoundError("no folder for pins is named: MAILBOX_KEY_DIR names it")
        return f"{self.folder}/pins/{name}.pub"

    def _read(self, path: str, name: str) -> PublicKeys | None:
        try:
            facts = os.stat(path)
            now = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
            before, public = self._seen.get(path, ((), None))
            if before == now and public is not None:
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
        self._seen[path] = (now, public)
        return public


def _is_there(path: str) -> bool:
    """Raises InsecureKeyFileError where that cannot be known: that we cannot look must not pass for having no key."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InsecureKeyFileError(f"{quoted(path)} cannot be looked at ({error.strerror})") from error
    return True
