"""Every call through which another uid could make this project harm somebody, and why it cannot.

One row for each reason: module and functions, then who can influence the call, then why it is safe. The calls are
renames, removals, changes of mode or owner, opened files and listed folders: all of them, also where only the user can
influence them, so that a new one is never forgotten. A test reads this table and the package's source: it fails on a
function that makes such a call and has no row, and on a row whose function makes none any more. A new row is a claim:
read the code, and write what holds.

agents/hook  log
        | the owner of the box: run/ is its own
        | run/ by open_run; READ-like flags (no link, no waiting), a regular file of ours with one link; bounded
agents/notes  Notes.save, Notes.show_presence, open_run, locked, sessions, sweep, _load, _put
        | the owner of the box, and programs of the same uid: run/ is 0755, so no other uid writes there
        | run/ is opened O_NOFOLLOW and must be ours; all by descriptor: READ never follows, never blocks; a regular
        file of ours, bounded; drafts O_EXCL under random digits, renamed over names of ours
agents/session  waiting
        | senders: names in new/
        | reads names only
agents/waiting  has_mail
        | senders: names in new/; the owner of the box: the rest
        | reads names only
agents/waiter  client_pid
        | the user: processes of his own
        | reads /proc, bounded in depth
agents/install  skill_text
        | whoever may write into the installed package
        | read only; the path is the package's own
agents/install  apply, _remove_skill_folder, _read
        | the user: files of the user's own home or project
        | no path comes from mail; a new file O_EXCL beside the old one and a rename; links are followed as the client
        follows them
cli/body  _content
        | the user: a path of his own, after --body-file
        | no path comes from mail; read only, once, at most a byte more than the limit of a message
cli/editing  _edit, in_editor
        | the user: an editor of his own
        | a file in the private mode of tempfile (0600, a random name, O_EXCL), opened again by its path in a sticky
        folder, where no other uid can replace it; the body is its content and never part of its name
cli/keys  keys_generate_
        | the user names a file for public keys
        | no path comes from mail
cli/keys  _given
        | the user names a file of public keys
        | read only
cli/relay  relay_init_, _parse_key, _read
        | the operator: paths of the configuration; state is the relay's own
        | made 0750 and given to the relay's uid before it starts; status is a draft and a rename in that folder
cli/run  _prepare, _silence
        | the user: terminal and files of his own
        | no path comes from mail
cli/watch  _Printer.__call__
        | the user: terminal and files of his own
        | no path comes from mail
documents/checkpoint  write, forget
        | the owner of checkpoints/, who may swap what lies in it; members of the group add files
        | by descriptor of checkpoints/, opened O_NOFOLLOW: a draft O_EXCL under random digits, fchown and fchmod of
        that file alone, a rename over UID.json; the name is a number of ours. The folder's owner can change
        checkpoints anyway; only those of the reader's uid and of the owner of versions/ are believed
documents/folders  Folders.__init__, Folders._open_other, _open_path, _listing
        | whoever may write into .documents/; the owner of each folder below
        | each folder is opened by one name under the one above, O_DIRECTORY and O_NOFOLLOW; nothing is made or changed
documents/folders  _documents
        | whoever may write into .documents/, and swaps folders for links
        | reads names only: what a link shows makes a name that is opened again by Folders, O_NOFOLLOW; depth is bounded
documents/folders  read_small
        | the owner of the document; for checkpoints, members of the group
        | READ never follows, never blocks; a regular file of at most 4 KiB; a checkpoint must have the right owner, one
        link, and no write bit for others
documents/folders  create, _make_path, _build, _write, _set
        | the owner of the folder above, who may swap what was just made
        | a hidden random name, each folder made and opened O_NOFOLLOW by descriptor, files O_EXCL; owner never changes,
        mode and group are set on descriptors. A folder moved there in between gets our modes: only who may write
        into that folder can move it there
documents/folders  open_to_all
        | whoever may write into .documents/, which root has made
        | made under the open folder, 0700 first, and opened O_NOFOLLOW; its mode changes on that descriptor, and only
        if it is ours
documents/folders  _put_in_place
        | whoever has made a folder of that name
        | a rename within the folder above, which replaces an empty folder only; an existing one is moved into only if
        it is ours and closed to others, and never over a document
documents/folders  _flush
        | the owner of the folder above
        | opened for fsync, nothing else
documents/folders  remove
        | owners of the folders above
        | one rename in the open folder, to a random name; the folders above go by rmdir under descriptors, O_NOFOLLOW,
        and only if they are empty
documents/folders  discard
        | the owner of the folder above, who chooses what lies under `.new-…` and `.removed-…`
        | rmtree with dir_fd follows no link: what it deletes lies in a folder that was moved there, by who may write
        into it
documents/history  History._link, History._undo_if_valid
        | members, who may write into drafts/ and versions/; the owner of drafts/ swaps our draft
        | link never follows and replaces nothing; by descriptors; a version counts only by its bytes and its base, and
        the owner could have linked the same by itself
documents/history  History.add, History._unlink
        | members of the group: other names in drafts/
        | O_EXCL and O_NOFOLLOW under 24 random digits; drafts/ is sticky; only our own draft is removed
documents/history  History.make_way
        | a member, which puts what is no version under the next number
        | a rename between two folders of the document, to a random name: the entry itself, and never its target; undone
        if it has become a version
documents/history  History._trim
        | members: what lies under old numbers
        | by the owner of the document only, unlink by descriptor of a name that is a number below the current version
documents/history  History._settle_base, _read_version
        | members: what lies under a number, and swaps it
        | READ never follows, never blocks; type, size and mode are asked of the descriptor; what was read counts only
        as a version with the right base or digest. A link to a file of the reader's own is read, and is no version
documents/upkeep  garbage, _garbage_in, _entries, _files_in
        | whoever may write into .documents/; the owner of each folder below
        | each folder is opened O_NOFOLLOW under the one above; reads names and stats, never through a link; a piece is
        taken away while its folder is open
documents/upkeep  _unlink
        | the owner of the document and members: any name
        | by descriptor: it takes the entry and never its target, after 36 hours, or an old version, or a deaf bell
documents/upkeep  _setter.fix
        | the owner of the document, who may swap versions/ before the fix
        | opened anew O_NOFOLLOW; owner and mode must be those that were found; chmod of that descriptor
ops/bench  _box
        | the user, on a root of his own
        | a box that this process has made, moved to a hidden name before it is deleted
ops/cleanup  root_garbage, _remove_marker
        | whoever may write into the root
        | by descriptors of the root; only drafts of the marker, and removed boxes without mail
ops/cleanup  _junk, _leases, _requests, _done, _consumers, _bloated, _entries
        | the owner of the box, and senders: any names
        | in a process with the owner's rights (as_owner); names of open folders whose owner was checked
ops/cleanup  _shrink, _remove_consumer, _remove_half_made, _unlock, _unlink, _rmdir, _remove_junk
        | the owner of the box swaps folders for links while root sweeps
        | in a process with the owner's rights (as_owner): it can do what the owner can; each folder is opened again
        O_NOFOLLOW; dir_fd everywhere
ops/doctor  _foreign_entries, _uid_trust, _setting, _far_deadlines, _is_too_late, _junk, _outbox, _expired
        | the owner of the box plants links, FIFOs and many names
        | reads only: files O_NOFOLLOW and O_NONBLOCK; a folder listed through a planted link makes a wrong count and
        nothing else; an error is this box's own finding
ops/waiting  waiting_mail, _fields
        | senders plant links, FIFOs and huge files; the owner of the box links for folders
        | opened() never through a link; READ and strict_read, bounded in number and bytes; reads only
ops/inventory  _later, _claimed, _count
        | the owner of the box plants links and many names
        | reads names only: through a planted link a count is wrong, and nothing else; an error is this box's own row
receive/command_handler  _stdin
        | senders: the body
        | a memfd of our own
receive/history  History._entries, History._read
        | senders: names and files in new/; the owner of the box: sent/
        | folders are opened FOLDER (never a link), files READ by descriptor and read strictly, as by peek
receive/leases  _Lease.leave, NewLease.acquire, _claims, _message
        | other consumers of the same uid; ids come from the command line
        | folders of cur/ are 0700; O_NOFOLLOW; the rename gives the folder of this consumer its deadline, by
        descriptor
receive/peek  peek, _candidates, _claimed, _messages_at, _messages, read_message, dead_reason, _note
        | senders: what lies in new/, and swaps it while it is read
        | READ; shown only if the name is the file's only one, by facts that nobody can race (is_only_link)
receive/status  ListenerStatus.close, ListenerStatus._open, ListenerStatus._forget_dead
        | the owner of the box: run/ is its own
        | O_NOFOLLOW, under the consumer's own name; unlinked by descriptor
receive/status  _reports, _longest_claim, _read, _doorbells, unheard
        | the owner of the box plants links and FIFOs
        | READ (no link, no waiting), bounded, JSON facts are checked; an error is this box's own row
relay/audit_format  read_checkpoint, _sizes, read_lines, segment_numbers
        | nobody but the relay: the state folder is its own, 0750
        | segments by number; drafts are renamed over checkpoints of our own
relay/audit_log  AuditLog.open, AuditLog._continue_segment, AuditLog._begin_segment, AuditLog._open_records,
    AuditLog._write, AuditLog._publish_key
        | nobody but the relay: the state folder is its own, 0750
        | segments by number; drafts are renamed over checkpoints of our own
relay/inbox  Inbox._enter, Inbox._open_left, Inbox.staged
        | the agent owns its volume
        | O_DIRECTORY and O_NOFOLLOW under the box's descriptor; stopped at a limit; a file counts as ours by owner
        and bytes
relay/inbox  Inbox.stage, Inbox.commit, Inbox.discard, Inbox.backlog
        | the agent owns the folders and swaps them
        | O_PATH descriptors under the box, O_EXCL files of ours, fchmod and fchown of the descriptor; rename and
        unlink by dir_fd under a name with our id
relay/outbox  Outbox.open
        | the agent: any number of names
        | O_NOFOLLOW; the list is bounded, the rest waits its turn
relay/outbox  Outbox.waiting, Outbox.read, Outbox.remove, Outbox.bounce, Outbox.discard, Outbox._read_strictly
        | the agent owns the folder
        | by descriptor; unlink takes the entry that was carried, bounce moves into the agent's own dead/ and replaces
        nothing
relay/status  read_status, StatusFile.update, StatusFile.remove
        | agents: content of their mail
        | state of the relay's own folder
relay/volume  open_box, write_reason
        | the operator names volumes; the agent owns what is in them
        | the volume may be a link, nothing in it may (O_PATH and O_NOFOLLOW); notes are O_EXCL, 0644, and capped
store/box  create_box, _fill, make_consumer
        | whoever may write into the root or has made `.NAME` before
        | a box is made under `.NAME`, mode 0700, by descriptors; one of a foreign owner is refused; renamed when it
        is complete
store/box  listed
        | the owner of the box
        | reads names of an open descriptor
store/box  _make_folders, _give_back
        | the owner of the box, who may swap what root has just made
        | fchown of a descriptor opened O_NOFOLLOW whose owner is root: a foreign thing is given to nobody
store/claim_deferred  DeferredMail.scan
        | senders: any number of names
        | reads names of an open descriptor; a scan is at most a twentieth of the time
store/claim_deferred  DeferredMail.claim_next
        | senders choose the name in new/
        | files are renamed into cur/CONSUMER (0700) and opened READ by descriptor; what is removed lies there, was
        claimed by us, and replaces nothing
store/claim_new  NewMail.__init__, NewMail.scan
        | senders: any number of names
        | reads names of an open descriptor; a scan is at most a twentieth of the time
store/claim_new  NewMail.claim_next, NewMail._unclaim, NewMail._read_and_claim, NewMail._rename_checked
        | senders choose the name in new/
        | files are renamed into cur/CONSUMER (0700) and opened READ by descriptor; what is removed lies there, was
        claimed by us, and replaces nothing
store/consumer_folder  ConsumerFolder.recover_replaced_new, ConsumerFolder._make, ConsumerFolder.adopt,
    ConsumerFolder.change_name, ConsumerFolder.recover_dead_consumers, ConsumerFolder._free_folders, recover_claims,
    open_folder
        | other consumers of the same uid
        | folders of cur/ are 0700 and the box's; each step is taken under the lock of that consumer, by descriptor
store/consumer_folder  file_away
        | senders: a name that is taken in the target
        | RENAME_NOREPLACE; the duplicate is removed only if owner and bytes are equal, else the message gets a fresh
        id
store/consumer_folder  _recover_replaced_new, move_all
        | the owner of the box, who may plant `.new-x`; senders, who drop into it
        | as the owner, by descriptors, RENAME_NOREPLACE; a link and a folder of another uid are skipped; a file that
        is removed has an equal copy
store/answerable  _read, _write
        | the owner of the box
        | read strictly, and only if it is the box owner's; written as the owner, a draft O_EXCL renamed by descriptor
store/box_settings  read_box_settings, _write
        | the owner of the box, whose settings they are
        | read strictly, and only if it is the box owner's; written as the owner, a draft O_EXCL renamed by descriptor
store/dead_letters  DeadLetters.sweep, is_expired
        | senders: names of mail; dead/ is 0700
        | names from our own dead/, by descriptor; a note is opened with READ and never followed
store/dead_letters  DeadLetters.add, DeadLetters.add_unclaimed, DeadLetters.requeue, DeadLetters.purge
        | senders choose names; dead/ is 0700
        | names were parsed; by descriptor; moves replace nothing; only the letter and its own note are removed
store/dead_letters  DeadLetters.explain, DeadLetters._has_room, DeadLetters._count_rest
        | senders: how many notes, under which names
        | O_NOFOLLOW, 0600, in dead/, which is 0700; a cap on notes, then one file that counts
store/deliver  _move_in, _draft
        | the recipient owns the box, and swaps its folders for links; other senders may write into tmp/
        | O_EXCL and O_NOFOLLOW under a name with our id and random digits; sticky folders keep others from our file;
        only our own draft is removed. Root goes by the descriptors of _place() in boxes of other uids. Any other sender
        can be led by a link into folders in which it may write, with a new file of its own, called ID,S=SIZE.json
store/deliver  _place
        | the recipient swaps the box, tmp/, new/ or outbox/ for a link or another folder
        | O_PATH, O_DIRECTORY and O_NOFOLLOW, fstat: a link, or a folder of another owner than the box's, is refused
store/deliver  _answer
        | a third uid may make replies/ID
        | the folder is opened O_PATH and O_NOFOLLOW and must be the box owner's; the rename goes by its descriptor
store/intake  Intake._remove_with_note
        | senders: what lies in new/
        | by descriptor, as the owner of the box; rmdir takes empty folders only, unlink takes the entry and never its
        target
store/junk  mail_in, is_crowded, lying, _holds
        | senders: any number of names
        | scandir of an open descriptor, stopped at a count or a share of time; what is left alone is remembered by
        inode and ctime
store/junk  Aside.empty, keep, keep_old, leave_behind, carry, _carry_without
        | senders, who go on writing into the folder that is exchanged
        | the box is ours, RENAME_EXCHANGE puts a fresh folder there in one step; files move by descriptors and
        replace nothing
store/junk  remove
        | senders: names and nested folders
        | as the owner, dir_fd (rmtree follows no link), only what has lain there for 36 hours
store/ledger  Ledger._page, Ledger._append, Ledger._rewrite, Ledger._draft
        | senders choose the page, by address or uid
        | ledger/ is 0700; a page's name is made of the trust level and a checked address or uid; what is written is
        opened O_NOFOLLOW, a draft O_EXCL under the lock
store/permissions  chown_to_box_owner, set_mode_and_owner
        | the owner of the box, who may swap the path
        | O_PATH and O_NOFOLLOW, fstat decides, chmod and chown go through /proc/self/fd of that descriptor; a foreign
        owner is refused
store/removed_boxes  remove_box, remove_empty_folder, discard_removed, _empty
        | whoever may write into the root
        | by descriptors of root and .removed/, which must not be links; the box leaves by one rename; rmtree with
        dir_fd follows no link
store/removed_boxes  _refuse_busy, count_mail
        | the owner of the box
        | reads names; a lock tells who is alive
store/replies  PendingRequest.__enter__, PendingRequest.answers, PendingRequest._clear, PendingRequest.accept,
    PendingRequest._leave
        | a third uid, which may make replies/ID before or while we wait
        | our folder is opened O_NOFOLLOW and must be ours; answers are read strictly, must have one link and the
        right sender; the name is unlinked by descriptor
store/replies  waits
        | a third uid, which may make replies/ID
        | O_PATH, O_DIRECTORY and O_NOFOLLOW, fstat: only a folder of the box's owner
store/replies  sweep, _take_away, abandon, _empty, _move
        | a third uid: traps in replies/; senders: names
        | in folders of the box by descriptor; moves replace nothing; what cannot be removed is renamed aside and
        left; bounded by time
store/root  Root.boxes
        | whoever may write into the root
        | reads names; only valid addresses count
store/root  find_root, read_marker
        | the operator names the root; whoever may write into it
        | reads the marker without blocking; only JSON of a known format counts
store/root  init_root, _write
        | whoever may write into the root
        | a draft O_EXCL in an open folder, renamed over the marker by descriptor
store/sent  keep_sent
        | the owner of the box, who runs this: sent/ belongs to the uid that sends, or no copy is made
        | a new file O_EXCL and O_NOFOLLOW under our own id
store/sent  sweep_sent
        | the owner of the box
        | as the owner, by descriptor, names from the folder itself
store/settle  Settler.ack
        | senders choose the name in new/
        | files are renamed into cur/CONSUMER (0700) and opened READ by descriptor; what is removed lies there, was
        claimed by us, and replaces nothing
store/spool  Spool._sweep_replies
        | senders: any number of names
        | reads names of an open descriptor; a look is at most a twentieth of the time
store/spool  Spool._sweep_done, _sweep_tmp
        | senders choose the name in new/
        | files are renamed into cur/CONSUMER (0700) and opened READ by descriptor; what is removed lies there, was
        claimed by us, and replaces nothing
system/as_owner  opened
        | the owner of the box, who may swap any folder for a link
        | O_DIRECTORY and O_NOFOLLOW, then fstat: another owner than the box's is refused; all work goes by this
        descriptor
system/as_owner  _capable
        | nobody: /proc of this process
        | read only; a capability that is left ends the child
system/files  list_dir
        | whoever may write into the folder
        | reads names of an open descriptor; the callers bound what they do with them
system/files  rename_noreplace, _reserve
        | senders choose the name
        | descriptors on both sides, RENAME_NOREPLACE, or an empty file of ours (O_EXCL) reserves the name first
system/files  same
        | senders: two names in folders of ours
        | READ never follows, never blocks; owner, size (at most 1 MiB), links and bytes are compared on the
        descriptors
system/locks  is_held
        | the owner of the folder in which the lock lies
        | read-only, O_NOFOLLOW and O_NONBLOCK, LOCK_SH with LOCK_NB: nothing is made, changed or waited for
system/locks  taken
        | the owner of the box
        | by name in an open folder of ours, O_NOFOLLOW, 0600; a FIFO or a link fails the open
system/mounts  mounts
        | nobody: a table of the kernel
        | read only
trust/key_files  PrivateKeys.generate, PrivateKeys.rotate, write_key_file, flush_folder
        | the user: the key folder is private, and not on the volume
        | O_EXCL and O_NOFOLLOW, 0600; a rotated key replaces by one rename in the private folder
trust/key_files  read_private, read_vouched
        | whoever may write where keys lie
        | O_NOFOLLOW and O_NONBLOCK, fstat: owner and mode are checked on the descriptor before a byte is used
trust/keyring  Keyring.pin, Keyring.unpin, Keyring.known
        | the user: pins lie in the private folder
        | the name is a parsed address
trust/owners  overflow_uid
        | nobody: /proc
        | read only
wake/doorbell  Bell.__init__
        | the owner of the box: run/ is its own
        | a hidden random name, then rename; mode 0722 on our own socket, which gives others the right to ring and
        nothing else
wake/doorbell  _unbind, _at_path, _delete_stale
        | the owner of the box: run/ is its own
        | our own socket, by its inode; sockets that no listener holds, in our own box
wake/ringer  Ringer._current_bells, _open_bells
        | the owner of the box hangs there what he likes
        | O_PATH and O_NOFOLLOW by descriptor, sockets only; a cap on bells and on names looked at; sends never block
        and receive nothing

Numbers that a sender, or a clock that was wrong, can choose:

format/filename  parse_filename
        | S=, A=, W= and the size of a name: the sender
        | digits only, at most as many as the name is long; S= must be the file's size, A= is at least 1; from senders
        A=, W= are dropped at the claim
format/times  parse_time, optional_time
        | expires, deliver_after: the sender
        | parsed strictly; a time that datetime cannot hold makes the file a dead letter
store/claim_deferred  is_too_late
        | the due time before `~` in later/: a clock that was ahead
        | what was retried or recovered is due within the longest backoff
store/ledger  Ledger.record
        | the timestamp of an id: the sender
        | clamped to the consumer's clock: a message stamped in the year 9999 moves no horizon
relay/policy_file  parse_policy
        | nobody: the operator writes the policy
        | strict TOML, every number has bounds
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

import pytest

from support.paths import PACKAGE

_OS: Final = re.compile(
    "unlink|rename|replace|rmdir|remove|removedirs|renames|f?chmod|[fl]?chown|listdir|scandir|f?walk|link|symlink|open|"
    "mkdir|makedirs|mkfifo|mknod|utime|f?truncate"
)
_OURS: Final = frozenset({"rename", "move", "rename_noreplace", "list_dir", "bare_rename"})  # of system/files
_OF_PATHS: Final = re.compile("unlink|rmdir|iterdir|r?glob|touch|(write|read)_(text|bytes)|(hardlink|symlink)_to")
_HARMLESS: Final = frozenset({"get_terminal_size", "which"})  # of shutil

Function = tuple[str, str]
"""The module as a path without `.py`, and the qualified name of the function; empty for the module's own level."""


def is_dangerous(node: ast.AST) -> bool:
    """Whether this is one of the calls of the table; of a function of `os` or `shutil`, any mention counts."""
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if owner == "os":
            return bool(_OS.fullmatch(node.attr))
        if owner == "shutil":
            return node.attr not in _HARMLESS
        return node.attr in _OURS if owner == "files" else bool(_OF_PATHS.fullmatch(node.attr))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {*_OURS, "open"}


def dangerous(module: str, source: str) -> Iterator[Function]:
    """The functions of a module that make such a call."""

    def walk(node: ast.AST, scope: tuple[str, ...]) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (*scope, child.name) if named else scope  # type: ignore[attr-defined]
            if is_dangerous(child):
                yield module, ".".join(inner)
            yield from walk(child, inner)

    yield from walk(ast.parse(source), ())


def functions(module: str) -> set[str]:
    """All functions of a module, by their qualified names."""
    found = set()

    def walk(node: ast.AST, scope: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (*scope, child.name) if named else scope  # type: ignore[attr-defined]
            if named:
                found.add(".".join(inner))
            walk(child, inner)

    walk(ast.parse((PACKAGE / f"{module}.py").read_text()), ())
    return found


def rows(text: str) -> list[tuple[list[Function], str, str]]:
    """The functions, who can influence them, and why they are safe."""
    found = []
    for block in re.split(r"\n(?=\w+(?:/\w+)?  )", text):
        if match := re.fullmatch(r"(\w+(?:/\w+)?)  ([^|]+)\|([^|]+)\|([^|]+)", block.strip(), re.DOTALL):
            names = [name.strip() for name in match[2].split(",")]
            found.append(([(match[1], name) for name in names], match[3].strip(), match[4].strip()))
    return found


_CALLS, _NUMBERS = (__doc__ or "").split("\nNumbers that ")
TABLE: Final = rows(_CALLS.partition("\n\n")[2].partition("\n\n")[2])
NUMBERS: Final = rows(_NUMBERS.partition("\n\n")[2])
NAMED: Final = [function for names, _, _ in TABLE for function in names]
MADE: Final = {
    function
    for path in PACKAGE.rglob("*.py")
    for function in dangerous(path.relative_to(PACKAGE).with_suffix("").as_posix(), path.read_text())
}


def test_every_dangerous_call_has_a_row() -> None:
    """A new call is a new claim: somebody has to say why it is safe."""
    assert sorted(MADE - set(NAMED)) == []


def test_every_row_is_of_a_call_that_is_made() -> None:
    """A row that outlives its call hides the next one of that name."""
    assert sorted(set(NAMED) - MADE) == []


def test_every_row_stands_once_and_says_who_and_why() -> None:
    """Two rows for one function would contradict each other."""
    assert len(TABLE) > 40
    assert sorted(NAMED) == sorted(set(NAMED))
    assert all(who and len(why) > 8 for _, who, why in [*TABLE, *NUMBERS])


def test_every_number_is_read_where_the_table_says() -> None:
    """The functions that read what a sender chose are there."""
    assert len(NUMBERS) > 3
    assert [(module, name) for names, _, _ in NUMBERS for module, name in names if name not in functions(module)] == []


@pytest.mark.parametrize(
    "line",
    [
        "os.unlink(name)",
        "remove = os.remove",
        "shutil.rmtree(path)",
        "files.move(a, b, c, d)",
        "list_dir(folder)",
        "open(path)",
        "path.unlink()",
    ],
)
def test_a_call_is_seen_however_it_is_written(line: str) -> None:
    """The reader of the source bites: also a mention without a call, which could be called under another name."""
    source = f"class Box:\n    def clear(self):\n        {line}\n"

    assert set(dangerous("store/box", source)) == {("store/box", "Box.clear")}
    assert not list(dangerous("store/box", source.replace(line, 'text.replace("a", "b")')))
