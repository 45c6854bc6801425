"""Keys and pins: who we are, and by which key we know the others.

    KEYS/                   a folder that is private to one agent, outside every root: $MAILBOX_KEYS
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
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TypeGuard

from . import codec, names, seal
from .errors import ChangedKey, NoKey, UnsafeKey, quoted
from .names import Address
from .root import MARKER, Root

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LONGEST: Final = 1 << 16

# What is wrong with a file of keys. What stands there instead is not shown: it may be a part of a secret one.
_NO_KEYS: Final = "holds no keys: expected one line of JSON, as `mailbox keys` writes it"
_NO_KEY: Final = f"holds what is no key: expected {seal.KEY} bytes in base64"
_NO_AGENT: Final = 'does not say whose keys it holds: its "agent" is not the name of a box'


class Public:
    """The public keys of an agent."""

    __slots__ = ("agent", "boxes", "identity")

    def __init__(self, agent: Address, identity: bytes, boxes: tuple[bytes, ...]) -> None:
        self.agent = agent
        self.identity = identity  # Ed25519
        self.boxes = boxes  # X25519; mail is sealed to the first

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Public) and self.line() == other.line()

    def __hash__(self) -> int:
        return hash(self.line())

    def __repr__(self) -> str:
        return f"<Public {self.agent} {self.fingerprint}>"

    @property
    def fingerprint(self) -> str:
        """What people compare: half of the SHA-256 of the identity, in hex. Messages call it `skid`."""
        return seal.kid(self.identity)

    def line(self) -> bytes:
        """The content of a `.pub` file."""
        members = {"v": 1, "agent": self.agent, "sign": _text(self.identity), "box": [_text(box) for box in self.boxes]}
        return codec.dumps(members, None, codec.LINE)

    @classmethod
    def read(cls, data: bytes, where: str) -> Public:
        """The inverse of line(). Raises UnsafeKey, which names *where* it was read."""
        found = cls._read(data)
        del data  # no traceback shows it: it may be a private key, given by mistake
        if isinstance(found, str):
            raise UnsafeKey(f"{quoted(where)} {found}")
        return found

    @classmethod
    def _read(cls, data: bytes) -> Public | str:
        """The keys, or what is wrong with them."""
        members = _members(data)
        if members is None:
            return _NO_KEYS
        if not members.keys().isdisjoint(("seed", "boxes")):
            return "holds a private key: give what `mailbox keys show` prints"
        identity, boxes, agent = _key(members.get("sign")), _keys(members.get("box")), members.get("agent")
        if identity is None or None in boxes:
            return _NO_KEY
        sound = [box for box in boxes if box is not None and seal.is_box(box)]
        if not seal.is_identity(identity) or not sound or len(sound) < len(boxes):
            return "holds a key that protects nothing: it must be made anew"
        return cls(Address(agent), identity, tuple(sound)) if _is_agent(agent) else _NO_AGENT


class Identity:
    """An agent's own keys. What is secret in it is in no repr, and cannot be pickled."""

    __slots__ = ("_seed", "agent", "boxes", "public", "sign")

    def __init__(self, agent: Address, seed: bytes, secrets: tuple[bytes, ...]) -> None:
        identity, self.sign = seal.signing(seed)
        keys = [seal.Box(seal.public_box(secret), seal.Secret(secret)) for secret in secrets]
        self.agent = agent
        self._seed = seal.Secret(seed)
        self.boxes = {seal.kid(key.public): key for key in keys}
        self.public = Public(agent, identity, tuple(key.public for key in keys))

    def __repr__(self) -> str:
        made = getattr(self, "public", None)  # a traceback can show one that is only half made
        return f"<Identity {made.agent} {made.fingerprint}>" if made else "<Identity>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("private keys are not pickled: give the other process the path of its own")

    @classmethod
    def load(cls, path: str, root: Root | None = None) -> Identity:
        """The keys in the file *path*. Raises NoKey where there is none, UnsafeKey where others can read it."""
        found = cls._read(_private(path, root))
        if isinstance(found, str):
            raise UnsafeKey(f"{quoted(path)} {found}")
        return cls(*found)

    @staticmethod
    def _read(data: bytes) -> tuple[Address, seal.Secret, tuple[seal.Secret, ...]] | str:
        """The keys, or what is wrong with them. Nothing is raised here: tracebacks can show what a frame holds."""
        members = _members(data)
        if members is None:
            return _NO_KEYS
        if "sign" in members:
            return "holds public keys, expected private ones"
        seed, boxes, agent = _key(members.get("seed")), _keys(members.get("boxes")), members.get("agent")
        secrets = tuple(seal.Secret(box) for box in boxes if box is not None)
        if not boxes:
            return "holds no box key: `mailbox keys generate --rotate` makes one"
        if seed is None or len(secrets) < len(boxes):
            return _NO_KEY
        return (Address(agent), seal.Secret(seed), secrets) if _is_agent(agent) else _NO_AGENT

    @classmethod
    def generate(cls, path: str, agent: Address, root: Root | None = None) -> Identity:
        """New keys, written to the file *path*, which must not exist. It survives a power cut.

        Raises UnsafeKey where the file exists, or would lie on the mail volume.
        """
        made = cls(agent, _fresh(), (_fresh(),))
        _refuse_inside(path, root)
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        try:
            made._write(path, os.O_EXCL)
        except FileExistsError:
            raise UnsafeKey(
                f"{quoted(path)} is there already: `mailbox keys generate --rotate` adds a box key to it; for a new "
                "identity, move it away first"
            ) from None
        return made

    def rotate(self, path: str) -> Identity:
        """The same identity with a further box key, which comes first; the file *path* is replaced, in one rename."""
        secrets = (_fresh(), *(key.secret for key in self.boxes.values()))
        made = Identity(self.agent, self._seed, secrets)
        draft = f"{path}.{os.urandom(6).hex()}"
        made._write(draft, os.O_EXCL)
        os.rename(draft, path)
        _flush_folder(path)
        return made

    def _write(self, path: str, how: int) -> None:
        _write(path, self._line(), 0o600, how)

    def _line(self) -> seal.Secret:
        """The content of a `.key` file."""
        boxes = [_text(key.secret) for key in self.boxes.values()]
        members = {"v": 1, "agent": self.agent, "seed": _text(self._seed), "boxes": boxes}
        return seal.Secret(codec.dumps(members, None, codec.LINE))


class Keyring:
    """The keys that one agent's mailbox goes by: its own, and those of others that are pinned or registered."""

    def __init__(self, agent: Address, root: Root | None, folder: str | None, registry: str | None) -> None:
        self.agent, self.root, self.folder, self.registry = agent, root, folder, registry
        self._own: Identity | None = None
        self._own_as: tuple[int, ...] | None = None  # what the file was when it was read
        self._seen: dict[str, tuple[tuple[int, ...], Public]] = {}

    @property
    def path(self) -> str:
        """The file of our own keys. Raises NoKey where no folder for it is known."""
        if self.folder is None:
            raise NoKey(f"no folder of keys is named: MAILBOX_KEYS names it, and {self.agent}.key lies there")
        return f"{self.folder}/{self.agent}.key"

    def seal(self, to: str, id: str, line: bytes) -> bytes:
        """The message *line*, sealed for *to*. Raises NoKey where a key is missing, ours or theirs."""
        own, box = self.own(), self.public(to).boxes[0]
        hints = {"v": seal.VERSION, "id": id, "from": self.agent, "to": to, "sent": names.sent(id)}
        return seal.seal(line, hints, own.public.identity, own.sign, box)

    def sign(self, line: bytes) -> bytes:
        """The message *line*, signed by us. Raises NoKey where there is no key of ours."""
        own = self.own()
        return seal.signed(line, own.public.identity, own.sign)

    @property
    def has_own(self) -> bool:
        """Whether there is a private key of ours."""
        return self.folder is not None and _is_there(self.path)

    def own(self) -> Identity:
        """Our own keys, read anew where they were rotated. Raises NoKey where there are none, UnsafeKey."""
        path = self.path
        try:
            facts = os.stat(path)
            now: tuple[int, ...] | None = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
        except OSError:
            now = None  # load() says what is wrong with it
        if self._own is None or now != self._own_as:
            own = Identity.load(path, self.root)
            if own.agent != self.agent:
                raise UnsafeKey(f"{quoted(path)} holds the keys of {quoted(own.agent)}, not of {quoted(self.agent)}")
            self._own, self._own_as = own, now
        return self._own

    def public(self, name: str) -> Public:
        """The public keys of *name*: pinned, registered, or our own. Raises NoKey where there are none."""
        found = self.pinned(name)
        if found is None and name == self.agent and self.has_own:
            found = self.own().public
        if found is None:
            raise NoKey(f"no key of {quoted(name)} is pinned: `mailbox keys pin NAME FILE` does that")
        return found

    def identity(self, name: str) -> bytes | None:
        """The identity of *name*, or None where none is known."""
        try:
            return self.public(name).identity
        except NoKey:
            return None

    def pinned(self, name: str) -> Public | None:
        """The public keys of *name*, where others vouch for them: pinned or registered.

        Raises UnsafeKey where such a file cannot be trusted or read, ChangedKey where the two differ.
        """
        found = [public for path in self._places(name) if (public := self._read(path, name)) is not None]
        if len({public.identity for public in found}) > 1:
            raise ChangedKey(f"the registry and the pins know different keys of {quoted(name)}: one of them is wrong")
        if not found:
            self._refuse_missing()
        return found[0] if found else None

    def _refuse_missing(self) -> None:
        """A folder that was named and is not there, perhaps not mounted, must not pass for one without pins."""
        for folder in (self.folder, self.registry):
            if folder is not None and not os.path.isdir(folder):
                raise UnsafeKey(f"{quoted(folder)} is not there, and keys were to be found in it: is it mounted?")

    def pin(self, public: Public) -> bool:
        """Trust these keys. Returns False where that is so already. Raises ChangedKey where others are pinned."""
        name = public.agent
        path = self._pin(name)
        _refuse_inside(path, self.root)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        known = self.pinned(name)
        if known == public:
            return False
        if known is not None:
            raise ChangedKey(
                f"other keys of {quoted(name)} are pinned ({known.fingerprint}): if the change is real, "
                f"`mailbox keys unpin {name}` comes first; the operator changes those of the registry"
            )
        _write(path, public.line(), 0o600, os.O_EXCL)
        return True

    def unpin(self, name: Address) -> None:
        """Trust the pinned keys of *name* no more. Raises NoKey where none are pinned."""
        try:
            os.unlink(self._pin(name))
        except FileNotFoundError:
            raise NoKey(f"no key of {quoted(name)} is pinned in {quoted(os.path.dirname(self._pin(name)))}") from None

    def known(self) -> Iterator[tuple[Public, str]]:
        """All that are pinned or registered, and where; sorted by name within each."""
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                for text in sorted(os.listdir(folder)):
                    name, dot, suffix = text.rpartition(".")
                    if dot and suffix == "pub" and names.is_address(name):
                        public = self._read(f"{folder}/{text}", name)
                        if public is not None:
                            yield public, folder

    def _folders(self) -> list[str]:
        pins = [f"{self.folder}/pins"] if self.folder is not None else []
        return [*([self.registry] if self.registry is not None else []), *pins]

    def _places(self, name: str) -> list[str]:
        return [f"{folder}/{name}.pub" for folder in self._folders()] if names.is_address(name) else []

    def _pin(self, name: Address) -> str:
        if self.folder is None:
            raise NoKey("no folder for pins is named: MAILBOX_KEYS names it")
        return f"{self.folder}/pins/{name}.pub"

    def _read(self, path: str, name: str) -> Public | None:
        try:
            facts = os.stat(path)
            now = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
            before, public = self._seen.get(path, ((), None))
            if before == now and public is not None:
                return public
            public = Public.read(_vouched(path, self.root), path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnsafeKey(f"{quoted(path)} cannot be read: {(error.strerror or str(error)).lower()}") from error
        if public.agent != name:
            raise UnsafeKey(f"{quoted(path)} holds the keys of {quoted(public.agent)}, not of {quoted(name)}")
        self._seen[path] = (now, public)
        return public


def _is_there(path: str) -> bool:
    """Raises UnsafeKey where that cannot be known: that we cannot look must not pass for having no key."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UnsafeKey(f"{quoted(path)} cannot be looked at ({error.strerror})") from error
    return True


def _private(path: str, root: Root | None) -> bytes:
    """The content of a private file. Raises NoKey, UnsafeKey."""
    _refuse_inside(path, root)
    try:
        file = os.open(path, _READ)
    except FileNotFoundError:
        raise NoKey(f"there is no private key {quoted(path)}: `mailbox keys generate` makes it") from None
    except OSError as error:
        raise UnsafeKey(f"{quoted(path)} cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise UnsafeKey(f"{quoted(path)} is no file of keys")
        if facts.st_uid != os.geteuid():
            raise UnsafeKey(
                f"the private key {quoted(path)} belongs to the uid {facts.st_uid}, expected {os.geteuid()}: "
                f"`chown {os.geteuid()}` it"
            )
        if facts.st_mode & 0o077:
            raise UnsafeKey(
                f"the private key {quoted(path)} has the mode {stat.S_IMODE(facts.st_mode):04o}: others can read it. "
                "If they have, make a new one; else `chmod 0600` it"
            )
        return os.read(file, _LONGEST)
    finally:
        os.close(file)


def _vouched(path: str, root: Root | None) -> bytes:
    """The content of a public file that nobody else can change. Raises UnsafeKey, FileNotFoundError."""
    _refuse_inside(path, root)
    file = os.open(path, _READ)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise UnsafeKey(f"{quoted(path)} is no file of keys")
        if not os.fstatvfs(file).f_flag & os.ST_RDONLY:
            for what, there in ((path, facts), (os.path.dirname(path), os.stat(os.path.dirname(path)))):
                if there.st_mode & 0o022 or there.st_uid not in (0, os.geteuid()):
                    raise UnsafeKey(
                        f"{quoted(what)} can be changed by others (uid {there.st_uid}, mode "
                        f"{stat.S_IMODE(there.st_mode):04o}): mount it read-only, or keep it to yourself"
                    )
        return os.read(file, _LONGEST)
    finally:
        os.close(file)


def _refuse_inside(path: str, root: Root | None) -> None:
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
                raise UnsafeKey(f"{quoted(path)} lies on the mail volume: keys are kept where no other agent can reach")
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def _write(path: str, data: bytes, mode: int, how: int) -> None:
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
    _flush_folder(path)


def _flush_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _members(data: bytes) -> dict[str, Any] | None:
    try:
        members = codec.loads(data)
    except ValueError:
        return None
    return members if isinstance(members, dict) and type(members.get("v")) is int and members["v"] == 1 else None


def _is_agent(agent: object) -> TypeGuard[str]:
    return isinstance(agent, str) and names.is_address(agent)


def _keys(texts: object) -> list[bytes | None]:
    return [_key(text) for text in texts] if isinstance(texts, list) else []


def _key(text: object) -> bytes | None:
    try:
        key = binascii.a2b_base64(text, strict_mode=True) if isinstance(text, str) else b""
    except ValueError:
        return None
    return key if len(key) == seal.KEY else None


def _fresh() -> seal.Secret:
    return seal.Secret(os.urandom(seal.KEY))


def _text(key: bytes) -> str:
    return binascii.b2a_base64(key, newline=False).decode()
