"""Key files: an agent's own keys, and the pinned public keys of others.

    KEY_DIR/                a folder that is private to one agent, outside every root: $MAILBOX_KEY_DIR
      alice.key             alice's own: the seed of her signing key, her secret encryption keys; 0600 or 0400
      pins/bob.pub          bob's public keys, pinned by hand
    REGISTRY/               a folder of the operator, mounted read-only: $MAILBOX_REGISTRY
      bob.pub               the same, for all agents

An agent has one signing key (Ed25519) for life, and one or more encryption keys (X25519). Mail is sealed to the first;
mail sealed to an older one still opens. A key on the mail volume proves nothing. A changed key is never accepted
silently: an operator unpins the old one first.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import stat
from typing import Any, Final, NoReturn, TypeGuard

from ..errors import InsecureKeyFileError, KeyNotFoundError, quoted
from ..format import codec
from ..format.address import Address, is_address
from ..store.layout import MARKER
from ..store.root import Root
from . import seal

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_FILE_SIZE: Final = 1 << 16

# Defects of a key file. The errors never show its content: that may be part of a secret.
_NO_KEYS: Final = "holds no keys: expected one line of JSON, as `mailbox keys` writes it"
_NO_KEY: Final = f"holds a malformed key: expected {seal.KEY} bytes in base64"
_NO_AGENT: Final = 'names no owner: its "agent" is not the name of a box'


class PublicKeys:
    """The public keys of an agent."""

    __slots__ = ("agent", "encryption_keys", "signing_key")

    def __init__(self, agent: Address, signing_key: bytes, encryption_keys: tuple[bytes, ...]) -> None:
        self.agent = agent
        self.signing_key = signing_key  # Ed25519
        self.encryption_keys = encryption_keys  # X25519; mail is sealed to the first

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKeys) and self.line() == other.line()

    def __hash__(self) -> int:
        return hash(self.line())

    def __repr__(self) -> str:
        return f"<PublicKeys {self.agent} {self.fingerprint}>"

    @property
    def fingerprint(self) -> str:
        """Half of the SHA-256 of the signing key, in hex, for people to compare. Messages call it `skid`."""
        return seal.kid(self.signing_key)

    def line(self) -> bytes:
        """Return the content of a `.pub` file."""
        fields = {
            "v": 1,
            "agent": self.agent,
            "signing_key": _text(self.signing_key),
            "encryption_keys": [_text(key) for key in self.encryption_keys],
        }
        return codec.dumps(fields, None, codec.LINE)

    @classmethod
    def read(cls, data: bytes, where: str) -> PublicKeys:
        """Read the content of a `.pub` file. Raises InsecureKeyFileError, which names *where* it came from."""
        found = cls._read(data)
        del data  # so that no traceback shows it: it may be a private key, given by mistake
        if isinstance(found, str):
            raise InsecureKeyFileError(f"{quoted(where)} {found}")
        return found

    @classmethod
    def _read(cls, data: bytes) -> PublicKeys | str:
        """Return the keys, or their defect."""
        fields = _fields(data)
        if fields is None:
            return _NO_KEYS
        if "signing_seed" in fields:
            return "holds a private key: give what `mailbox keys show` prints"
        agent, signing_key, keys = (
            fields.get("agent"),
            _key(fields.get("signing_key")),
            _keys(fields.get("encryption_keys")),
        )
        if signing_key is None or None in keys:
            return _NO_KEY
        sound = [key for key in keys if key is not None and seal.is_encryption_key(key)]
        if not seal.is_signing_key(signing_key) or not sound or len(sound) < len(keys):
            return "holds a key that protects nothing: it must be replaced"
        return cls(Address(agent), signing_key, tuple(sound)) if _is_agent(agent) else _NO_AGENT


class PrivateKeys:
    """An agent's own keys. Their secrets appear in no repr, and cannot be pickled."""

    __slots__ = ("_seed", "agent", "encryption_keys", "public", "sign")

    def __init__(self, agent: Address, seed: bytes, secrets: tuple[bytes, ...]) -> None:
        signing_key, self.sign = seal.signer(seed)
        keys = [
            seal.EncryptionKeyPair(seal.public_encryption_key(secret), seal.SecretBytes(secret)) for secret in secrets
        ]
        self.agent = agent
        self._seed = seal.SecretBytes(seed)
        self.encryption_keys = {seal.kid(key.public): key for key in keys}
        self.public = PublicKeys(agent, signing_key, tuple(key.public for key in keys))

    def __repr__(self) -> str:
        public = getattr(self, "public", None)  # a traceback can show an instance that is only half made
        return f"<PrivateKeys {public.agent} {public.fingerprint}>" if public else "<PrivateKeys>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("private keys cannot be pickled: give the other process the path of its own")

    @classmethod
    def load(cls, path: str, root: Root | None = None) -> PrivateKeys:
        """Read the keys in the file *path*. Raises KeyNotFoundError, and InsecureKeyFileError if others can read it."""
        found = cls._read(read_private(path, root))
        if isinstance(found, str):
            raise InsecureKeyFileError(f"{quoted(path)} {found}")
        return cls(*found)

    @staticmethod
    def _read(data: bytes) -> tuple[Address, seal.SecretBytes, tuple[seal.SecretBytes, ...]] | str:
        """Return the keys, or their defect. It raises nothing: tracebacks can show the variables of this frame."""
        fields = _fields(data)
        if fields is None:
            return _NO_KEYS
        if "signing_key" in fields:
            return "holds public keys, expected private ones"
        agent, seed, keys = fields.get("agent"), _key(fields.get("signing_seed")), _keys(fields.get("encryption_keys"))
        secrets = tuple(seal.SecretBytes(key) for key in keys if key is not None)
        if not keys:
            return "holds no encryption key: `mailbox keys generate --rotate` makes one"
        if seed is None or len(secrets) < len(keys):
            return _NO_KEY
        return (Address(agent), seal.SecretBytes(seed), secrets) if _is_agent(agent) else _NO_AGENT

    @classmethod
    def generate(cls, path: str, agent: Address, root: Root | None = None) -> PrivateKeys:
        """Make new keys and write them to the file *path*, durably.

        Raises InsecureKeyFileError if the file exists, or if it would be on the mail volume.
        """
        keys = cls(agent, _fresh(), (_fresh(),))
        refuse_inside(path, root)
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        try:
            keys._write(path, os.O_EXCL)
        except FileExistsError:
            raise InsecureKeyFileError(
                f"{quoted(path)} exists already",
                hint="`mailbox keys generate --rotate` adds an encryption key, `mailbox keys show` prints the "
                "public keys again; for a new signing key, move the file away",
            ) from None
        return keys

    def rotate(self, path: str) -> PrivateKeys:
        """Return the same signing key with one more encryption key, which comes first.

        One rename replaces the file *path*: after a crash it holds the old keys or the new ones.
        """
        secrets = (_fresh(), *(key.secret for key in self.encryption_keys.values()))
        keys = PrivateKeys(self.agent, self._seed, secrets)
        temporary = f"{path}.{os.urandom(6).hex()}"
        keys._write(temporary, os.O_EXCL)
        os.rename(temporary, path)
        flush_folder(path)
        return keys

    def _write(self, path: str, flags: int) -> None:
        write_key_file(path, self._line(), 0o600, flags)

    def _line(self) -> seal.SecretBytes:
        """Return the content of a `.key` file."""
        keys = [_text(key.secret) for key in self.encryption_keys.values()]
        fields = {"v": 1, "agent": self.agent, "signing_seed": _text(self._seed), "encryption_keys": keys}
        return seal.SecretBytes(codec.dumps(fields, None, codec.LINE))


def read_private(path: str, root: Root | None) -> bytes:
    """Return the content of a private file. Raises KeyNotFoundError, and InsecureKeyFileError if others can read it."""
    refuse_inside(path, root)
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        raise KeyNotFoundError(
            f"there is no private key {quoted(path)}", hint="`mailbox keys generate` makes it"
        ) from None
    except OSError as error:
        raise InsecureKeyFileError(
            f"{quoted(path)} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise InsecureKeyFileError(f"{quoted(path)} is not a regular file")
        if st.st_uid != os.geteuid():
            raise InsecureKeyFileError(
                f"the private key {quoted(path)} belongs to the uid {st.st_uid}, expected {os.geteuid()}",
                hint=f"`chown {os.geteuid()}` it",
            )
        if st.st_mode & 0o077:
            raise InsecureKeyFileError(
                f"the private key {quoted(path)} has the mode {stat.S_IMODE(st.st_mode):04o}: others can read it",
                hint="if they may have read it, make a new one; otherwise `chmod 0600` it",
            )
        return os.read(fd, _MAX_FILE_SIZE)
    finally:
        os.close(fd)


def read_vouched(path: str, root: Root | None) -> bytes:
    """Return the content of a public file that only root and we can change.

    Raises InsecureKeyFileError, FileNotFoundError.
    """
    refuse_inside(path, root)
    fd = os.open(path, _READ)
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise InsecureKeyFileError(f"{quoted(path)} is not a regular file")
        if not os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            folder = os.path.dirname(path)
            for name, status in ((path, st), (folder, os.stat(folder))):
                if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
                    raise InsecureKeyFileError(
                        f"{quoted(name)} can be changed by others: its uid is {status.st_uid}, its mode "
                        f"{stat.S_IMODE(status.st_mode):04o}",
                        hint="mount it read-only, or make it writable for its owner alone",
                    )
        return os.read(fd, _MAX_FILE_SIZE)
    finally:
        os.close(fd)


def refuse_inside(path: str, root: Root | None) -> None:
    """Raise InsecureKeyFileError if *path* is on a mail volume: *root* or another, under any name it is mounted at."""
    volume = set()
    if root is not None:
        for folder in (root.path, *(root.box(name).path for name in root.boxes())):
            with contextlib.suppress(OSError):
                st = os.stat(folder)
                volume.add((st.st_dev, st.st_ino))
    above = os.path.dirname(os.path.realpath(path))
    while True:
        with contextlib.suppress(OSError):
            st = os.stat(above)
            if (st.st_dev, st.st_ino) in volume or os.path.exists(f"{above}/{MARKER}"):
                raise InsecureKeyFileError(
                    f"{quoted(path)} is on a mail volume", hint="keep keys where no other agent can reach"
                )
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def write_key_file(path: str, data: bytes, mode: int, flags: int) -> None:
    """Write a key file and flush it and its folder. Raises OSError; the file is removed then."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags, mode)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, "the disk is full")
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    flush_folder(path)


def flush_folder(path: str) -> None:
    """Flush the folder of the file *path*. Raises OSError."""
    dir_fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(dir_fd)
    finally:
        os.close(dir_fd)


def _fields(data: bytes) -> dict[str, Any] | None:
    try:
        fields = codec.loads(data)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and type(fields.get("v")) is int and fields["v"] == 1 else None


def _is_agent(agent: object) -> TypeGuard[str]:
    return isinstance(agent, str) and is_address(agent)


def _keys(texts: object) -> list[bytes | None]:
    return [_key(text) for text in texts] if isinstance(texts, list) else []


def _key(text: object) -> bytes | None:
    try:
        key = binascii.a2b_base64(text, strict_mode=True) if isinstance(text, str) else b""
    except ValueError:
        return None
    return key if len(key) == seal.KEY else None


def _fresh() -> seal.SecretBytes:
    return seal.SecretBytes(os.urandom(seal.KEY))


def _text(key: bytes) -> str:
    return binascii.b2a_base64(key, newline=False).decode()
