"""Keys and pins: who we are, and by which key we know the others.

    KEYS/                   a folder that is private to one agent, outside every root: $MAILBOX_KEY_DIR
      alice.key             alice's own: the seed of her identity, and the secret halves of her box keys; 0600 or 0400
      pins/bob.pub          bob's public keys, pinned by hand
    REGISTRY/               a folder that the operator keeps, mounted read-only: $MAILBOX_REGISTRY
      bob.pub               the same, for all

An identity is one Ed25519 key for as long as its agent lives. Box keys are X25519, and there can be several: mail is
sealed to the first, and what was sealed to an older one still opens. A key that lies on the mail volume proves nothing,
and a changed key is never taken silently: it is unpinned by hand first.
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
_LONGEST: Final = 1 << 16

# What is wrong with a file of keys. What stands there instead is not shown: it may be a part of a secret one.
_NO_KEYS: Final = "holds no keys: expected one line of JSON, as `mailbox keys` writes it"
_NO_KEY: Final = f"holds what is no key: expected {seal.KEY} bytes in base64"
_NO_AGENT: Final = 'does not say whose keys it holds: its "agent" is not the name of a box'


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
        """What people compare: half of the SHA-256 of the identity, in hex. Messages call it `skid`."""
        return seal.kid(self.signing_key)

    def line(self) -> bytes:
        """The content of a `.pub` file."""
        fields = {
            "v": 1,
            "agent": self.agent,
            "signing_key": _text(self.signing_key),
            "encryption_keys": [_text(key) for key in self.encryption_keys],
        }
        return codec.dumps(fields, None, codec.LINE)

    @classmethod
    def read(cls, data: bytes, where: str) -> PublicKeys:
        """The inverse of line(). Raises InsecureKeyFileError, which names *where* it was read."""
        found = cls._read(data)
        del data  # no traceback shows it: it may be a private key, given by mistake
        if isinstance(found, str):
            raise InsecureKeyFileError(f"{quoted(where)} {found}")
        return found

    @classmethod
    def _read(cls, data: bytes) -> PublicKeys | str:
        """The keys, or what is wrong with them."""
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
    """An agent's own keys. What is secret in it is in no repr, and cannot be pickled."""

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
        made = getattr(self, "public", None)  # a traceback can show one that is only half made
        return f"<PrivateKeys {made.agent} {made.fingerprint}>" if made else "<PrivateKeys>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("private keys are not pickled: give the other process the path of its own")

    @classmethod
    def load(cls, path: str, root: Root | None = None) -> PrivateKeys:
        """The keys in the file *path*. Raises KeyNotFoundError where there is none, InsecureKeyFileError where "
        "others can read it."""
        found = cls._read(read_private(path, root))
        if isinstance(found, str):
            raise InsecureKeyFileError(f"{quoted(path)} {found}")
        return cls(*found)

    @staticmethod
    def _read(data: bytes) -> tuple[Address, seal.SecretBytes, tuple[seal.SecretBytes, ...]] | str:
        """The keys, or what is wrong with them. Nothing is raised here: tracebacks can show what a frame holds."""
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
        """New keys, written to the file *path*, which must not exist. It survives a power cut.

        Raises InsecureKeyFileError where the file exists, or would lie on the mail volume.
        """
        made = cls(agent, _fresh(), (_fresh(),))
        refuse_inside(path, root)
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        try:
            made._write(path, os.O_EXCL)
        except FileExistsError:
            raise InsecureKeyFileError(
                f"{quoted(path)} exists already",
                hint="`mailbox keys generate --rotate` adds an encryption key; for a new signing key, move it away",
            ) from None
        return made

    def rotate(self, path: str) -> PrivateKeys:
        """The same identity with a further box key, which comes first; the file *path* is replaced, in one rename."""
        secrets = (_fresh(), *(key.secret for key in self.encryption_keys.values()))
        made = PrivateKeys(self.agent, self._seed, secrets)
        draft = f"{path}.{os.urandom(6).hex()}"
        made._write(draft, os.O_EXCL)
        os.rename(draft, path)
        flush_folder(path)
        return made

    def _write(self, path: str, how: int) -> None:
        write_key_file(path, self._line(), 0o600, how)

    def _line(self) -> seal.SecretBytes:
        """The content of a `.key` file."""
        keys = [_text(key.secret) for key in self.encryption_keys.values()]
        fields = {"v": 1, "agent": self.agent, "signing_seed": _text(self._seed), "encryption_keys": keys}
        return seal.SecretBytes(codec.dumps(fields, None, codec.LINE))


def read_private(path: str, root: Root | None) -> bytes:
    """The content of a private file. Raises KeyNotFoundError, InsecureKeyFileError."""
    refuse_inside(path, root)
    try:
        file = os.open(path, _READ)
    except FileNotFoundError:
        raise KeyNotFoundError(f"there is no private key {quoted(path)}: `mailbox keys generate` makes it") from None
    except OSError as error:
        raise InsecureKeyFileError(
            f"{quoted(path)} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise InsecureKeyFileError(f"{quoted(path)} is no file of keys")
        if facts.st_uid != os.geteuid():
            raise InsecureKeyFileError(
                f"the private key {quoted(path)} belongs to the uid {facts.st_uid}, expected {os.geteuid()}: "
                f"`chown {os.geteuid()}` it"
            )
        if facts.st_mode & 0o077:
            raise InsecureKeyFileError(
                f"the private key {quoted(path)} has the mode {stat.S_IMODE(facts.st_mode):04o}: others can read it. "
                "If they have, make a new one; else `chmod 0600` it"
            )
        return os.read(file, _LONGEST)
    finally:
        os.close(file)


def read_vouched(path: str, root: Root | None) -> bytes:
    """The content of a public file that nobody else can change. Raises InsecureKeyFileError, FileNotFoundError."""
    refuse_inside(path, root)
    file = os.open(path, _READ)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise InsecureKeyFileError(f"{quoted(path)} is no file of keys")
        if not os.fstatvfs(file).f_flag & os.ST_RDONLY:
            for what, there in ((path, facts), (os.path.dirname(path), os.stat(os.path.dirname(path)))):
                if there.st_mode & 0o022 or there.st_uid not in (0, os.geteuid()):
                    raise InsecureKeyFileError(
                        f"{quoted(what)} can be changed by others (uid {there.st_uid}, mode "
                        f"{stat.S_IMODE(there.st_mode):04o}): mount it read-only, or keep it to yourself"
                    )
        return os.read(file, _LONGEST)
    finally:
        os.close(file)


def refuse_inside(path: str, root: Root | None) -> None:
    """Keys do not lie on a mail volume, under whatever name it is mounted; not on *root*, nor on any other."""
    volume = set()
    if root is not None:
        for folder in (root.path, *(root.box(name) for name in root.boxes())):
            with contextlib.suppress(OSError):
                facts = os.stat(folder)
                volume.add((facts.st_dev, facts.st_ino))
    above = os.path.dirname(os.path.realpath(path))
    while True:
        with contextlib.suppress(OSError):
            facts = os.stat(above)
            if (facts.st_dev, facts.st_ino) in volume or os.path.exists(f"{above}/{MARKER}"):
                raise InsecureKeyFileError(
                    f"{quoted(path)} lies on the mail volume: keys are kept where no other agent can reach"
                )
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def write_key_file(path: str, data: bytes, mode: int, how: int) -> None:
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | how, mode)
    try:
        if os.write(file, data) != len(data):
            raise OSError(errno.ENOSPC, "the disk is full")
        os.fsync(file)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(file)
    flush_folder(path)


def flush_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
