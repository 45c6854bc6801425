"""The prose of the package: docstrings name an actor and a verb; errors, logs and help use the words of the field."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.prose import BANNED, HEADS

PACKAGE = Path(__file__).parents[2] / "mailbox" / "filemailbox"

ALLOWED: dict[str, str] = {}
"""A phrase with a banned word, and the reason for it."""


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each docstring, those of attributes included, with its line."""
    for node in ast.walk(tree):
        for child in getattr(node, "body", None) or () if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and type(child.value.value) is str:
                yield child.lineno, child.value.value.strip()


def texts_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each text with a blank in it, with its line: docstrings, errors, hints, log lines, help, whatever is printed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is str and " " in node.value:
            yield node.lineno, node.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Each comment, with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def banned(text: str) -> list[str]:
    for phrase in ALLOWED:
        text = text.replace(phrase, "")
    return [match[0] for match in BANNED.finditer(text)]


@pytest.mark.parametrize("name", sorted(modules()))
def test_the_prose_of_a_module(name: str) -> None:
    """Docstrings begin with a noun or an imperative, and no text or comment uses a banned word."""
    source = modules()[name].read_text()
    tree = ast.parse(source)
    heads = [f"line {line}: begins with {found[0]}" for line, text in docstrings(tree) if (found := HEADS.match(text))]
    texts = {*texts_of(tree), *comments(source)}
    words = [f"line {line}: {word!r} in {text[:60]!r}" for line, text in sorted(texts) for word in banned(text)]

    assert heads + words == []


def test_the_lists_of_exceptions_are_of_use() -> None:
    """An exception that no longer applies is deleted."""
    prose = "\n".join(path.read_text() for path in modules().values())

    assert all(BANNED.search(phrase) and reason for phrase, reason in ALLOWED.items())
    assert all(phrase in prose for phrase in ALLOWED)
