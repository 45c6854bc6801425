"""How our prose reads: the expressions that it avoids, and the plain ones that it uses instead.

The one place for them: pages are checked by `faults(text)`, the package by HEADS and BANNED.
"""

import re
from collections.abc import Iterator
from typing import Final

HEADS: Final = re.compile(r"(What|Who|Whose|Whom|Whoever|Whatever|Whether|That|How|So)\b")
"""A docstring begins with none of these: the reader would wait for the verb."""

BANNED: Final = re.compile(
    r"\b(told|tells?|said|says?|anew|for ever|none of ours|nobody|somebody|anybody|lies|stands|looks at|looked at"
    r"|gone already|is as well)\b"
)
"""In docstrings, errors, logs and help: words for people, or words that have to be read twice."""

_RULES = (
    # expression, what to write instead
    (r"\b(?:is|are|was|be|being) told\b(?! apart)", "is logged, reported, printed"),
    (r"\banew\b", "again"),
    (r"\bfor ever\b", "indefinitely, until stopped"),
    (r"(?<!there )\b(?:is|are) (?-i:none)\b", "is not a …"),
    (r"\bnone of (?:ours|mine|it)\b", "not ours"),
    (r"\bin hand\b", "claimed"),
    (r"\bput(?:s|ting)? off\b", "defer"),
    (r"\bcan not\b", "cannot"),
    (r"\bat the (?:most|least)\b", "at most, at least"),
    (r"\bgive[sn]? away\b", "change the owner"),
    (r"\bthe world\b", "the isolation model"),
    (r"\bstrangers?\b", "unknown sender"),
    (r"\b(?:foreign) (?:file )?names?\b", "external file name"),
    (r"\bbox keys?\b", "encryption key"),
    (r"\bis of no use\b", "is useless"),
    (r"\bin vain\b", "without success"),
    (r"\b(?:whoever|somebody|nobody)\b", "name the actor"),
    (r"\b(?:lies|stands)\b(?! still)", "is"),
    (r"\b(?-i:none) is\b", "name what is missing"),
)
_EXPRESSIONS = tuple((re.compile(expression, re.IGNORECASE), better) for expression, better in _RULES)

# A sentence names its actor first: no clause stands in the place of the subject. Questions may begin so.
_OPENING = re.compile(
    r"(?:^|[.!:;]\s+)((?:What|Whatever|Who|Whoever|Whom|Whose|Whether)\b[^.!?|]*)(?=[.!|]|$)", re.MULTILINE
)
_LONGEST = 45  # words


def faults(text: str) -> Iterator[str]:
    """What is wrong with *text*, Markdown or plain, a line for each finding."""
    for expression, better in _EXPRESSIONS:
        for found in expression.finditer(text):
            yield f"{_around(text, found)}: write {better}"
    for found in _OPENING.finditer(text):
        yield f"{_around(text, found)}: name the actor first"
    for sentence in re.split(r"(?<=[.!?:;])\s+|\n\s*\n|\n(?=[|#*\-\d])|\|", text):
        if len(sentence.split()) > _LONGEST:
            yield f"{' '.join(sentence.split())[:80]} …: a sentence of {len(sentence.split())} words"


def _around(text: str, found: re.Match[str]) -> str:
    start, end = max(0, found.start() - 25), min(len(text), found.end() + 25)
    return "… " + " ".join(text[start:end].split()) + " …"
