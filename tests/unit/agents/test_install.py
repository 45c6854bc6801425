"""`mailbox install`: what it adds, that all else keeps its meaning, that twice is as once and can be undone."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filemailbox.agents.client_settings import EVENTS, SettingsError, is_ours, json_settings, markdown, toml_settings
from filemailbox.agents.install import skill_text
from filemailbox.cli.fast_parser import parse
from filemailbox.cli.verbs import find, split

Command = Callable[..., Any]
FILES = {
    "claude": [".claude/settings.json", ".claude.json", ".claude/skills/mailbox/SKILL.md"],
    "codex": [".codex/hooks.json", ".codex/config.toml", ".agents/skills/mailbox/SKILL.md"],
    "gemini": [".gemini/settings.json", ".gemini/skills/mailbox/SKILL.md"],
    "opencode": [".config/opencode/opencode.json", ".agents/skills/mailbox/SKILL.md"],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, which is also the folder of a project."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)
    return home


def texts(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): path.read_text() for path in sorted(home.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("client", list(FILES))
def test_it_installs_once_and_takes_out_all(mailbox: Command, home: Path, client: str) -> None:
    """The second time nothing changes; afterwards no file is left."""
    first = mailbox("install", client)
    made = texts(home)

    assert first.code == 0
    assert sorted(made) == sorted(FILES[client])
    assert all(line.endswith(": written") for line in first.lines)
    assert all(line.endswith(": unchanged") for line in mailbox("install", client).lines)
    assert texts(home) == made
    assert all(line.endswith(": removed") for line in mailbox("install", client, "--uninstall").lines)
    assert texts(home) == {}
    assert all(line.endswith(": unchanged") for line in mailbox("install", client, "--uninstall").lines)


def test_claude_gets_hooks_and_a_waiter(mailbox: Command, home: Path) -> None:
    """Each event in exec form; the waiter at the stop; the server."""
    mailbox("install", "claude")
    hooks = json.loads((home / ".claude/settings.json").read_text())["hooks"]

    assert tuple(hooks) == EVENTS["claude"]
    assert [hook["args"] for hook in hooks["Stop"][0]["hooks"]] == [["claude", "Stop"], ["claude", "--rewake"]]
    assert hooks["Stop"][0]["hooks"][1]["asyncRewake"] is True
    servers = json.loads((home / ".claude.json").read_text())["mcpServers"]
    assert servers == {"mailbox": {"command": "mailbox", "args": ["mcp"]}}


def test_a_project_has_files_of_its_own(mailbox: Command, home: Path) -> None:
    """Claude reads servers of a project from .mcp.json."""
    assert mailbox("install", "claude", "--project", "--no-skill").code == 0
    assert sorted(texts(home)) == [".claude/settings.json", ".mcp.json"]


def test_parts_can_be_left_out(mailbox: Command, home: Path) -> None:
    """Hooks, tools, skill."""
    mailbox("install", "gemini", "--no-mcp", "--no-skill")
    assert set(json.loads((home / ".gemini/settings.json").read_text())) == {"hooks"}
    mailbox("install", "codex", "--no-hooks", "--no-skill")
    assert tomllib.loads((home / ".codex/config.toml").read_text())["mcp_servers"]["mailbox"]["args"] == ["mcp"]


def test_a_dry_run_writes_nothing(mailbox: Command, home: Path) -> None:
    """It prints the diff."""
    said = mailbox("install", "claude", "--dry-run")

    assert "+" in said.out
    assert "mailbox-hook" in said.out
    assert texts(home) == {}


@pytest.mark.parametrize(
    ("client", "path", "text"),
    [
        ("claude", ".claude/settings.json", "{not json"),
        ("claude", ".claude/settings.json", "[]"),
        ("claude", ".claude/settings.json", '{"hooks": []}'),
        ("claude", ".claude/settings.json", '{"hooks": {"Stop": {}}}'),
        ("claude", ".claude.json", '{"mcpServers": {"mailbox": {"command": "/usr/bin/other"}}}'),
        ("claude", ".claude/skills/mailbox/SKILL.md", "---\nname: other\n---\n"),
        ("codex", ".codex/config.toml", "a = "),
        ("codex", ".codex/config.toml", '[mcp_servers.mailbox]\ncommand = "other"\n'),
        ("agents-md", "AGENTS.md", "<!-- mailbox:begin -->\n"),
    ],
)
def test_a_file_that_is_not_understood_stops_everything(
    mailbox: Command, home: Path, client: str, path: str, text: str
) -> None:
    """Exit code 65, the file in quotes, and no file written, also not those that could be."""
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    (home / path).write_text(text)
    said = mailbox("install", client)

    assert said.code == 65
    assert f'{path}"' in said.err
    assert texts(home) == {path: text}


def test_a_link_stays_a_link_and_a_mode_is_kept(mailbox: Command, home: Path) -> None:
    """Settings in a folder of dotfiles."""
    (home / "dotfiles").mkdir()
    (home / "dotfiles/settings.json").write_text('{"model": "x"}')
    (home / "dotfiles/settings.json").chmod(0o640)
    (home / ".claude").mkdir()
    (home / ".claude/settings.json").symlink_to(home / "dotfiles/settings.json")
    mailbox("install", "claude")

    assert (home / ".claude/settings.json").is_symlink()
    assert json.loads((home / "dotfiles/settings.json").read_text())["model"] == "x"
    assert (home / "dotfiles/settings.json").stat().st_mode & 0o777 == 0o640


def test_codex_is_told_what_only_the_user_can_do(mailbox: Command, home: Path) -> None:
    """To trust the hooks, and to open the sandbox."""
    said = mailbox("install", "codex").err

    assert all(part in said for part in ("Trust all", "writable_roots", "/usr/local/bin"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
HOOK = st.fixed_dictionaries({"type": st.just("command"), "command": st.text(max_size=20)}).filter(
    lambda hook: not is_ours(hook)
)
GROUPS = st.lists(
    st.fixed_dictionaries({"matcher": st.text(max_size=5), "hooks": st.lists(HOOK, max_size=2)}), max_size=2
)
SETTINGS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in ("hooks", "mcpServers")), JSON, max_size=3
)
WHOLE = st.tuples(
    SETTINGS,
    st.none() | st.dictionaries(st.sampled_from([*EVENTS["claude"], "PreToolUse"]), GROUPS, max_size=3),
    st.none() | st.dictionaries(st.sampled_from(["a", "b"]), JSON, max_size=2),
)


@given(WHOLE)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_all_else_keeps_its_meaning(parts: tuple[dict[str, Any], Any, Any]) -> None:
    """Random settings: without ours they are as before, but for objects that had been empty."""
    given, hooks, servers = parts
    before = {
        **given,
        **({} if hooks is None else {"hooks": hooks}),
        **({} if servers is None else {"mcpServers": servers}),
    }
    text = json.dumps(before)
    installed = json_settings(text, "claude", hooks=True, mcp=True)
    after = json.loads(json_settings(installed, "claude", hooks=False, mcp=False) or "{}")

    assert json_settings(installed, "claude", hooks=True, mcp=True) == installed
    assert {name: after.get(name) or {} for name in ("hooks", "mcpServers")} == {
        "hooks": {event: groups for event, groups in (hooks or {}).items() if groups or event not in EVENTS["claude"]},
        "mcpServers": servers or {},
    }
    assert {name: value for name, value in after.items() if name not in ("hooks", "mcpServers")} == given


@pytest.mark.parametrize(
    "text", ["", "a = 1", "a = 1\n", "a = 1\n\n", "[t]\nx = 1\n# end", "[mcp_servers.x]\ncommand = 'y'\n"]
)
def test_toml_is_restored_to_the_byte(text: str) -> None:
    """Also what does not end in a newline."""
    installed = toml_settings(text, install=True)

    assert tomllib.loads(installed)["mcp_servers"]["mailbox"]["command"] == "mailbox"
    assert toml_settings(installed, install=True) == installed
    assert toml_settings(installed, install=False) == text
    with pytest.raises(SettingsError):
        toml_settings("[mcp_servers]\nmailbox = {command = 'x'}\n", install=True)


@pytest.mark.parametrize("text", ["", "# Mine", "# Mine\n"])
def test_a_page_is_restored_to_the_byte(text: str) -> None:
    """Between its marks alone."""
    installed = markdown(text, "block\n", install=True)

    assert markdown(installed, "block\n", install=True) == installed
    assert markdown(installed, "", install=False) == text


def test_the_skill_is_short() -> None:
    """At most 60 lines, with its name and description."""
    assert len(skill_text().splitlines()) <= 60
    assert skill_text().startswith("---\nname: mailbox\ndescription: ")


def test_every_command_of_the_skill_can_be_parsed() -> None:
    """Verbs and options that exist, with values that they take."""
    lines = [line.strip() for line in skill_text().splitlines() if line.startswith("    mailbox ")]
    quoted = [each for each in re.findall(r"`(mailbox [^`]*)`", skill_text()) if " " in each]
    assert len(lines) > 8
    for line in [*lines, *quoted]:
        words = shlex.split(re.split(r" {3,}| < ", line)[0])[1:]
        found = split(words)

        assert found is not None, line
        assert parse(find(found[0]), found[1]) is not None, line
