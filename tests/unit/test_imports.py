"""The house: the one map in the package's docstring, held against the imports; and one door for each library."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import PACKAGE

DOORS = {
    "filelock": {"system.locks"},
    "msgspec": {"format.envelope", "receive.typed_bodies"},
    "pydantic": {"receive.typed_bodies"},
    "orjson": {"format.codec", "store.ledger", "receive.status", "receive.command_handler", "cli.watch"},
    "jsonpatch": {"documents.change"},
    "merge3": {"documents.change"},
    "mcp": {"agents.mcp_server"},
    "mcp_types": {"agents.mcp_server"},
    "anyio": {"agents.mcp_server"},
    "jsonschema": {"agents.post"},
    "nacl": {"trust.seal"},
    "typer": {"cli.typer_app"},
    "watchfiles": {"wake.watcher"},
    "asyncio": {"receive.aio", "receive.message"},
    "logging": {"log", "cli.watch"},
    "pytest": {"pytest_plugin"},
}


def rows() -> list[tuple[str, list[str]]]:
    """The rows of the map: the package, "" for modules of the top, and its rooms in their order."""
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text()), clean=True) or ""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"    (\((?:base|face)\)) +(.*)", line):
            found.append(("", match[2].split()))
        elif match := re.fullmatch(r"    ([a-z]+)/ +\S.*", line):
            found.append((match[1], []))
        elif line.startswith(" " * 17) and found and found[-1][0]:
            found[-1][1].extend(line.split())
    return found


def places() -> dict[str, tuple[int, int]]:
    """For each module its row and its place in that row."""
    return {
        f"{package}.{room}" if package else room: (number, place)
        for number, (package, rooms) in enumerate(rows())
        for place, room in enumerate(rooms)
    }


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    }


def imports(name: str, path: Path) -> Iterator[tuple[str, bool]]:
    """Each import of a module, lazy ones too: the imported module, and whether it is one of ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module.split(".")[0], False
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level]
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                full = f"{module}.{alias.name}" if module else alias.name
                yield (full if full in modules() else module), True


def test_the_map_names_every_module_once() -> None:
    """A new module is given its place on the map."""
    named = [f"{package}.{room}" if package else room for package, rooms in rows() for room in rooms]

    assert sorted(named) == sorted(modules())


def test_the_map_has_few_rows() -> None:
    """So that it can be seen."""
    assert 10 <= len(rows()) <= 16


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_imports_only_what_stands_above_it(name: str) -> None:
    """Arrows only point up the map."""
    place = places()
    upside_down = {
        other
        for other, ours in imports(name, modules()[name])
        if ours and other in place and place[other] >= place[name]
    }

    assert upside_down == set()


def test_the_relay_stands_beside_the_receiver() -> None:
    """relay/ imports neither receive/ nor the face."""
    imported = {
        other
        for name, path in modules().items()
        if name.startswith("relay.")
        for other, ours in imports(name, path)
        if ours
    }

    assert not {each for each in imported if each.startswith("receive.") or each in ("client", "options")}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_says_what_it_is_and_imports_nothing(path: Path) -> None:
    """Its `__init__` is a docstring, so that importing one room loads no other."""
    body = ast.parse(path.read_text()).body

    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def test_each_outside_library_has_its_door() -> None:
    """A library is imported where it belongs; each is listed here or in the standard library."""
    used: dict[str, set[str]] = {}
    for name, path in modules().items():
        for module, ours in imports(name, path):
            if not ours and (module in DOORS or module not in sys.stdlib_module_names):
                used.setdefault(module, set()).add(name)
    used.pop("filemailbox", None)

    assert used == DOORS


def test_the_source_root_does_not_shadow_the_standard_library() -> None:
    """`import mailbox` is still the standard library's: the folder has no `__init__.py`."""
    import mailbox

    assert not (PACKAGE.parent / "__init__.py").exists()
    assert mailbox.Maildir.__module__ == "mailbox"
    assert PACKAGE.parent not in Path(mailbox.__file__).parents
