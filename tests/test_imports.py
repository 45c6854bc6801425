"""The house: who may import whom, and which outside library has which door."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mailbox" / "filemailbox"

FLOORS = [
    {"errors", "log", "pattern", "codec"},
    {"names"},
    {"message", "bodies", "policy", "order", "files", "chain", "locks", "inotify", "mounts"},
    {"acting"},
    {"doorbell", "root", "rules", "seal"},
    {"junk"},
    {"ledger", "replies", "wake", "keys", "groups", "audit", "volumes", "carried", "place"},
    {"deliver", "graves", "trust", "status", "notify", "handlers"},
    {"odd"},
    {"spool"},
    {"consumer", "peek", "carry", "station"},
    {"listener", "leases", "ready", "relay"},
    {"aio", "command"},
    {"box"},
    {"roster"},
    {"sweep"},
    {"doctor", "bench"},
    {"pytest_plugin"},
    {"cli"},
    {"__main__"},
]

DOORS = {
    "filelock": {"locks"},
    "msgspec": {"bodies"},
    "pydantic": {"bodies"},
    "orjson": {"codec", "ledger", "status", "command", "cli"},
    "nacl": {"seal"},
    "typer": {"cli"},
    "watchfiles": {"wake"},
    "asyncio": {"aio", "consumer"},
    "logging": {"log", "cli"},
    "pytest": {"pytest_plugin"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            yield name, path


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """What a file imports, also inside functions: the module, and whether it is one of ours."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module.split(".")[0], False
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from ((name.split(".")[0], True) for name in ([node.module] if node.module else names_of(node)))


def names_of(node: ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names]


def test_every_module_stands_on_a_floor() -> None:
    """A new module is given its place on the map."""
    standing = set().union(*FLOORS)

    assert {name for name, _ in modules()} == standing


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda each: getattr(each, "stem", each))
def test_a_module_imports_only_from_lower_floors(name: str, path: Path) -> None:
    """Arrows only point down, lazy imports included."""
    floor = next(number for number, names in enumerate(FLOORS) if name in names)
    below = set().union(*FLOORS[:floor])
    imported = {module for module, ours in imports(path) if ours and module != "__version__"}

    assert imported <= below


def test_each_outside_library_has_its_door() -> None:
    """A library is imported where it belongs, and none is used that is not said here or in the standard library."""
    used: dict[str, set[str]] = {}
    for name, path in modules():
        for module, ours in imports(path):
            if not ours and (module in DOORS or module not in sys.stdlib_module_names):
                used.setdefault(module, set()).add(name)
    used.pop("filemailbox", None)

    assert used == DOORS


def test_the_map_in_the_package_names_every_module() -> None:
    """What `__init__.py` draws is what there is."""
    drawn = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    missing = [name for name, _ in modules() if name not in ("__main__",) and f"\n    {name}" not in drawn]

    assert missing == []


def test_the_source_root_does_not_shadow_the_standard_library() -> None:
    """`import mailbox` is still the standard library's: the folder has no `__init__.py`."""
    import mailbox

    assert not (PACKAGE.parent / "__init__.py").exists()
    assert mailbox.Maildir.__module__ == "mailbox"
    assert PACKAGE.parent not in Path(mailbox.__file__).parents
