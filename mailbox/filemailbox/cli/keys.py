"""Keys and pins: generate, show, pin, unpin, list."""

import contextlib
import os
import sys

from ..environment import key_folders, own_name
from ..errors import InsecureKeyFileError, InvalidRequestError, KeyNotFoundError, MailboxError, RootNotFoundError
from ..format.address import Address, parse_address
from ..store.box_settings import write_box_settings
from ..store.root import find_root
from . import output
from .common import As, Root, path_of
from .options import Annotated, Arg, Opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..trust.keyring import Keyring

KeyDir = Annotated[
    str | None,
    Opt(
        "--key-dir",
        metavar="DIR",
        help="The private folder of keys and pins. [$MAILBOX_KEY_DIR, else ~/.config/mailbox]",
    ),
]
Registry = Annotated[
    str | None,
    Opt("--registry", metavar="DIR", help="The operator's public keys, mounted read-only. [$MAILBOX_REGISTRY]"),
]


def keys_generate_(
    *,
    rotate: Annotated[
        bool, Opt("--rotate", help="Add a new encryption key; mail to the old ones still opens.")
    ] = False,
    out: Annotated[
        str | None, Opt("--out", metavar="FILE", help="Write the public keys to FILE, once all went well.")
    ] = None,
    sender: As = None,
    key_dir: KeyDir = None,
    root: Root = None,
) -> None:
    """Make the keys of an agent: NAME.key in the private folder. Prints the public ones.

    The folder must be outside the mail volume, and ignored by version control. With --rotate the signing key stays: the
    others get the new public keys. `mailbox keys show` prints them again.

    Examples:
      mailbox keys generate --as alice --key-dir ~/.config/mailbox --out alice.pub
      mailbox keys generate --as alice --rotate --out alice.pub
    """
    from ..trust.key_files import PrivateKeys

    ring = _ring(sender, key_dir, None, root, makes=True)
    if rotate:
        made = ring.own().rotate(ring.path)
        output.info(
            f"{ring.path}: a new encryption key was added; "
            f"mail sealed to the {len(made.encryption_keys) - 1} before it still opens"
        )
    else:
        made = PrivateKeys.generate(ring.path, ring.agent, ring.root)
        output.info(f"{ring.path}: made; keep it to yourself, and out of images and backups that others read")
    if ring.root is not None:
        with contextlib.suppress(MailboxError):  # no box yet, or another uid's: its first consumer with a key notes it
            write_box_settings(ring.root.box(ring.agent), {"keys": True})
    if out is None:
        output.write(made.public.line())
    else:
        with open(out, "wb") as file:
            file.write(made.public.line())


def keys_show_(
    name: Annotated[str | None, Arg("[NAME]", "Whose; our own by default.", read=parse_address)] = None,
    *,
    sender: As = None,
    key_dir: KeyDir = None,
    registry: Registry = None,
    root: Root = None,
) -> None:
    """Print public keys, as a line for `mailbox keys pin` or the registry; our own by default.

    Examples:
      mailbox keys show --as alice > registry/alice.pub
      mailbox keys show bob --as alice
    """
    ring = _ring(sender, key_dir, registry, root)
    public = ring.own().public if name is None else ring.public(name)
    output.info(f"{public.agent}: {_groups(public.fingerprint)}, encryption keys: {len(public.encryption_keys)}")
    output.write(public.line())


def keys_pin_(
    name: Annotated[Address, Arg("NAME", "Whose keys they are.", read=parse_address)],
    file: Annotated[
        str | None, Arg("[FILE]", "What that agent's `keys show` printed; none, or -, reads standard input.")
    ] = None,
    *,
    sender: As = None,
    key_dir: KeyDir = None,
    registry: Registry = None,
    root: Root = None,
) -> None:
    """Trust the public keys of another agent. From then on, unsigned mail from that name is refused.

    Take them where no other agent can write: a key from the mail volume proves nothing. Compare the fingerprint. Keys
    that are pinned already are never replaced: `mailbox keys unpin` comes first.

    Examples:
      mailbox keys pin alice alice.pub --as bob
      ssh host mailbox keys show --as alice | mailbox keys pin alice --as bob
    """
    from ..trust.key_files import PublicKeys

    ring = _ring(sender, key_dir, registry, root, makes=True)
    public = PublicKeys.read(*_given(file))
    if public.agent != name:
        raise InsecureKeyFileError(f'these are the keys of "{public.agent}", not of "{name}"')
    fresh = ring.pin(public)
    output.info(f"{name}: {'pinned' if fresh else 'known already'}: {_groups(public.fingerprint)}")


def keys_unpin_(
    name: Annotated[Address, Arg("NAME", "Whose keys.", read=parse_address)],
    *,
    sender: As = None,
    key_dir: KeyDir = None,
    root: Root = None,
) -> None:
    """Trust pinned keys no more. Those in the registry are the operator's to change.

    Examples:
      mailbox keys unpin alice --as bob
    """
    _ring(sender, key_dir, None, root).unpin(name)
    output.info(f"{name}: no longer pinned")


def keys_list_(
    *,
    json: Annotated[bool, Opt("--json", help="Print one line of JSON for each agent.")] = False,
    sender: As = None,
    key_dir: KeyDir = None,
    registry: Registry = None,
    root: Root = None,
) -> None:
    """List the keys that we have and know: whose, the fingerprint, how many encryption keys, from where.

    Examples:
      mailbox keys list --as bob
    """
    ring = _ring(sender, key_dir, registry, root)
    rows = []
    if ring.has_own:
        own = ring.own().public
        rows.append((own.agent, _shown(own.fingerprint), str(len(own.encryption_keys)), f"ours, {ring.path}"))
    for public, where in ring.known():
        rows.append((public.agent, _shown(public.fingerprint), str(len(public.encryption_keys)), where))
    if json:
        for agent, fingerprint, keys, where in rows:
            record = {"agent": agent, "fingerprint": fingerprint, "encryption_keys": int(keys), "from": where}
            output.write(output.json(record))
        return
    output.table(("NAME", "FINGERPRINT", "ENCRYPTION KEYS", "FROM"), [tuple(map(output.one_line, row)) for row in rows])


def _ring(
    sender: str | None, key_dir: str | None, registry: str | None, root: str | None, *, makes: bool = False
) -> "Keyring":
    from ..trust.keyring import Keyring

    folder, known = key_folders(key_dir, registry)
    if folder is None:
        folder = os.path.expanduser("~/.config/mailbox")
    if not makes and not os.path.isdir(folder) and known is None:
        raise KeyNotFoundError(
            f"there is no folder of keys {folder}: `mailbox keys generate` makes it, --key-dir names another"
        )
    try:
        volume = find_root(path_of(root))
    except RootNotFoundError:
        volume = None  # keys are made before there is any mail
    return Keyring(parse_address(sender or own_name()), volume, folder, known)


def _given(file: str | None) -> tuple[bytes, str]:
    if file is None or file == "-":
        if sys.stdin is None:
            raise InvalidRequestError("there are no keys: standard input is closed, and no FILE was given")
        return sys.stdin.buffer.read(1 << 16), "standard input"
    with open(file, "rb") as opened:
        return opened.read(1 << 16), file


def _shown(fingerprint: str) -> str:
    return _groups(fingerprint) if output.is_tty() else fingerprint


def _groups(fingerprint: str) -> str:
    """For people who compare."""
    return " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4))
