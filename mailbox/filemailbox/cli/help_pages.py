"""Help: one text for `--help` and the page of commands, made from the annotations and docstrings of the verbs."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from ..trust.levels import NAMES
from . import exit_codes
from .options import Arg, Opt, parameters
from .verbs import GROUPS, VERBS, find

_WIDTH: Final = 80

ABOUT: Final = """Mail between programs and agents: one folder per inbox, one JSON file per message, no server.

list, read and wait change nothing. receive and watch take mail: a message is acked when it was printed, and then it is
gone; --no-ack keeps it until you settle it."""

FIRST_STEPS: Final = (
    ("mailbox agents", "the boxes here, and which have a listener"),
    ('mailbox send bob "text"', "prints the id"),
    ("mailbox send bob < FILE", "a longer body, such as a diff"),
    ("mailbox receive --wait 5m", "the next message to you, as JSON in a pipe"),
    ('mailbox reply ID "text"', "answer a message that you received"),
    ('mailbox request bob "text?"', "send, wait, print the answer"),
    ("mailbox status bob", "why bob does not answer"),
)

SECTIONS: Final = {
    "Mail": "send request receive reply watch",
    "By hand, after `receive --no-ack`": "ack retry reject extend",
    "Look": "agents status list read wait log thread events top ui",
    "Agents": "hook mcp install remind reserve release reservations",
    "Operate": "init remove health doctor gc dead metrics bench completion",
    "Documents": "doc",
    "Keys": "keys",
    "Relay": "relay",
}
"""The verbs by use, for the overview; each word is a verb or the first word of several."""

ENVIRONMENT: Final = f"""MAILBOX_ROOT is the mail volume (else /mail), MAILBOX_AGENT whose mail it is.
MAILBOX_KEY_DIR is the private folder of keys and pins, MAILBOX_REGISTRY the operator's public keys,
MAILBOX_MIN_TRUST the
least proof of a sender that is taken: {", ".join(NAMES)}. MAILBOX_SEAL and MAILBOX_SIGN are 1 or 0:
whether what is sent is sealed, or signed. Else it is signed where a key of ours is at hand.

Standard output is data, standard error is for people: tables and relative times on a terminal, tabs or JSON Lines and
exact times in a pipe. NO_COLOR is honoured."""


def text(verb: str = "") -> str:
    """The help of a verb, of a group of verbs, or, for anything else, of the command."""
    if verb in VERBS:
        return _of_verb(verb)
    return _of_group(verb) if verb in GROUPS else _overview()


def summary(verb: str) -> str:
    """Return the first sentence of the help of a verb."""
    first = (find(verb).__doc__ or "").strip().split("\n\n")[0]
    sentence = " ".join(first.split())
    return sentence if sentence.count(". ") == 0 else sentence.split(". ")[0] + "."


def _overview() -> str:
    parts = ["Usage: mailbox VERB …", *_paragraphs(ABOUT), "First steps:\n" + _list(FIRST_STEPS)]
    left = list(dict.fromkeys(verb.split()[0] for verb in VERBS))
    for title, words in SECTIONS.items():
        firsts = [word for word in words.split() if word in left]
        left = [word for word in left if word not in firsts]
        if firsts:
            parts.append(f"{title}:\n" + _list(row for first in firsts for row in _rows(first)))
    if left:
        parts.append("More:\n" + _list(row for first in left for row in _rows(first)))
    parts += _paragraphs("`mailbox help VERB` shows more, `mailbox version` prints the version.\n\n" + ENVIRONMENT)
    parts += ["Exit codes:\n" + _list((str(code), meaning) for code, meaning in exit_codes.MEANINGS)]
    return "\n\n".join(parts) + "\n"


def _rows(first: str) -> Iterator[tuple[str, str]]:
    """Yield the row of the verb *first*, or one for the verbs that begin with that word."""
    words = [verb.removeprefix(f"{first} ") for verb in VERBS if verb.startswith(f"{first} ")]
    if first in VERBS:
        yield first, summary(first)
    if words:
        yield f"{first} {', '.join(words)}", GROUPS.get(first, f"More verbs of {first}.")


def _of_group(name: str) -> str:
    verbs = [verb for verb in VERBS if verb.startswith(f"{name} ")]
    parts = [f"Usage: mailbox {name} VERB …", GROUPS[name]]
    parts += ["Verbs:\n" + _list((verb, summary(verb)) for verb in verbs)]
    return "\n\n".join(parts) + "\n"


def _of_verb(verb: str) -> str:
    about, _, examples = textwrap.dedent("    " + (find(verb).__doc__ or "").strip()).partition("\nExamples:\n")
    known = list(parameters(find(verb)))
    arguments = [each.what for each in known if isinstance(each.what, Arg)]
    options = [each.what for each in known if isinstance(each.what, Opt)]
    usage = " ".join(["Usage: mailbox", verb, "[OPTIONS]", *(each.metavar for each in arguments)])
    parts = [usage, *_paragraphs(about)]
    if arguments:
        parts += ["Arguments:\n" + _list((each.metavar, each.help) for each in arguments)]
    rows = [(", ".join(each.names) + (f" {each.metavar}" if each.metavar else ""), each.help) for each in options]
    parts += ["Options:\n" + _list([*rows, ("-h, --help", "Show this text.")])]
    if examples:
        parts += ["Examples:\n" + textwrap.indent(textwrap.dedent(examples).rstrip(), "  ")]
    return "\n\n".join(parts) + "\n"


def _paragraphs(about: str) -> Iterator[str]:
    for paragraph in textwrap.dedent(about).strip().split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), _WIDTH, break_on_hyphens=False, break_long_words=False)


def _list(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, the second one wrapped; a long word has a line of its own."""
    rows = list(rows)
    indent = min(24, max(len(word) for word, _ in rows)) + 4
    lines = []
    for word, meaning in rows:
        wrapped = textwrap.wrap(meaning, _WIDTH - indent, break_on_hyphens=False, break_long_words=False)
        if len(word) > indent - 4:
            lines.append(f"  {word}")
        else:
            lines.append(f"  {word:{indent - 2}}{wrapped.pop(0)}")
        lines += [" " * indent + each for each in wrapped]
    return "\n".join(lines)


def page() -> str:
    """The page of all commands, in Markdown: a table of them, then the help of each."""
    parts = ["# Commands", "*Made from `mailbox VERB --help`; a test keeps it so.*", rows()]
    parts += ["## mailbox", f"```text\n{text()}```"]
    for name in VERBS:
        parts += [f"## mailbox {name}", f"```text\n{text(name)}```"]
    return "\n\n".join(parts) + "\n"


def rows() -> str:
    """The verbs as a table in Markdown, each a link to its help."""
    lines = ["| command | does |", "| --- | --- |"]
    for verb in VERBS:
        places = [each.what.metavar for each in parameters(find(verb)) if isinstance(each.what, Arg)]
        lines += [f"| [`{' '.join([verb, *places])}`](#mailbox-{verb.replace(' ', '-')}) | {summary(verb)} |"]
    return "\n".join(lines)
