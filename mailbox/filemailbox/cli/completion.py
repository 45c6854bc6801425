"""Completion for shells: a script that needs no other program, made from the annotations of the verbs."""

from collections.abc import Callable, Iterator
from typing import Final

from .options import Annotated, Arg, Opt, one_of, parameters
from .verbs import VERBS, find, following

SHELLS: Final = ("bash", "zsh", "fish")
_NAMES: Final = ("NAME", "NAME...", "[NAME...]", "TO")


def completion_(
    shell: Annotated[str, Arg("SHELL", "bash, zsh or fish.", read=one_of(*SHELLS), values=SHELLS)],
) -> None:
    """Print a script that completes verbs, options and the names of agents. It starts no mailbox: it answers at once.

    Examples:
      eval "$(mailbox completion bash)"
      mailbox completion bash > ~/.local/share/bash-completion/completions/mailbox
      mailbox completion zsh > ~/.zfunc/_mailbox
      mailbox completion fish > ~/.config/fish/completions/mailbox.fish
    """
    makers: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    print(makers[shell](), end="")


def bash() -> str:
    """For bash, without the package bash-completion."""
    cases = []
    for verb in VERBS:
        flags = " ".join(name for option in _options(verb) for name in option.names)
        cases.append(f"    {_pattern(verb)}) flags='{flags} --help' places='{_places(verb)}' ;;")
    takes = "|".join(
        sorted({name for verb in VERBS for option in _options(verb) if option.metavar for name in option.names})
    )
    nexts = "\n".join(f"      {_quoted(_pattern(verb))}) next={_quoted(words)} ;;" for verb, words in _nexts())
    listed = "".join(_bash_values(verb, option) for verb in VERBS for option in _options(verb) if option.values)
    return f"""# bash completion for mailbox
_mailbox_agents() {{
  local root=${{MAILBOX_ROOT:-/mail}} i box
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ ${{COMP_WORDS[i]}} == --root ]] && root=${{COMP_WORDS[i + 1]/#\\~/$HOME}}
  done
  for box in "$root"/*/new; do
    box=${{box%/new}} box=${{box##*/}}
    [[ $box =~ ^[a-z0-9][a-z0-9._-]*$ ]] && printf '%s\\n' "$box"  # compgen would run what a name holds
  done
}}

_mailbox() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} verb='' next='' flags='' places='' i
  COMPREPLY=()
  for ((i = 1; i <= COMP_CWORD; i++)); do
    case $verb in
{nexts}
      *) break ;;
    esac
    if ((i == COMP_CWORD)) && [[ $cur != -* || ! $verb ]]; then
      COMPREPLY=($(compgen -W "$next" -- "$cur"))
      return
    fi
    [[ " $next " == *" ${{COMP_WORDS[i]}} "* ]] || break
    verb+=${{verb:+-}}${{COMP_WORDS[i]}}
  done
  case $verb:$prev in
{listed}    *:--as|*:--from) COMPREPLY=($(compgen -W "$(_mailbox_agents)" -- "$cur")); return ;;
    *:--root) COMPREPLY=($(compgen -d -- "$cur")); return ;;
  esac
  case $prev in
    {takes}) return ;;
  esac
  case $verb in
{chr(10).join(cases)}
    *) return ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  elif [[ $places == @agents ]]; then
    COMPREPLY=($(compgen -W "$(_mailbox_agents)" -- "$cur"))
  elif [[ $places ]]; then
    COMPREPLY=($(compgen -W "$places" -- "$cur"))
  fi
}}
complete -o default -F _mailbox mailbox
"""


def _bash_values(verb: str, option: Opt) -> str:
    words = f"compgen -W '{' '.join(option.values)}' -- \"$cur\""
    return "".join(f"    {_pattern(verb)}:{name}) COMPREPLY=($({words})); return ;;\n" for name in option.names)


def zsh() -> str:
    """For zsh."""
    from .help_pages import summary

    verbs = "\n".join(f"    {_quoted(f'{first}:{_about(first, summary)}')}" for first in _first_words())
    groups = "".join(_zsh_group(first) for first in _groups())
    cases = []
    for verb in VERBS:
        lines = [_quoted(line) for line in _zsh_lines(verb)]
        cases.append(f"    {_pattern(verb)}) _arguments -s \\\n      " + " \\\n      ".join(lines) + " ;;")
    return f"""#compdef mailbox
# zsh completion for mailbox
_mailbox_agents() {{
  local root=${{opt_args[--root]:-${{MAILBOX_ROOT:-/mail}}}}
  local -a agents=(${{(Q)~root}}/*/new(N/:h:t))
  compadd -a agents
}}

_mailbox() {{
  local verb=$words[2]
  if ((CURRENT == 2)); then
    local -a verbs=(
{verbs}
    )
    _describe verb verbs
    return
  fi
  shift words
  ((CURRENT--))
{groups}  case $verb in
{chr(10).join(cases)}
  esac
}}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _mailbox "$@"
else
  compdef _mailbox mailbox
fi
"""


def _zsh_group(first: str) -> str:
    from .help_pages import summary

    listed = "\n".join(
        f"        {_quoted(word + ':' + summary(verb if (verb := f'{first} {word}') in VERBS else first))}"
        for word in following(first)
    )
    return f"""  if [[ $verb == {first} && $words[2] != -* ]]; then
    if ((CURRENT == 2)); then
      local -a verbs=(
{listed}
      )
      _describe verb verbs
      return
    fi
    verb+="-$words[2]"
    shift words
    ((CURRENT--))
  fi
"""


def fish() -> str:
    """For fish."""
    from .help_pages import summary

    lines = [
        "# fish completion for mailbox",
        "function __mailbox_agents",
        "    set -l root /mail",
        "    set -q MAILBOX_ROOT; and set root $MAILBOX_ROOT",
        "    for box in $root/*/new",
        "        basename (dirname $box)",
        "    end",
        "end",
        "complete -c mailbox -f",
    ]
    lines += [
        f"complete -c mailbox -n __fish_use_subcommand -a {first} -d {_fish(_about(first, summary))}"
        for first in _first_words()
    ]
    for first in _groups():
        words = " ".join(following(first))
        seen = f"'__fish_seen_subcommand_from {first}; and not __fish_seen_subcommand_from {words}'"
        for word in following(first):
            verb = f"{first} {word}" if f"{first} {word}" in VERBS else first
            lines.append(f"complete -c mailbox -n {seen} -a {word} -d {_fish(summary(verb))}")
    for verb in VERBS:
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in verb.split())
        lines += [f"complete -c mailbox -n '{seen}' {_fish_option(option)}" for option in _options(verb)]
        if _places(verb) == "@agents":
            lines.append(f"complete -c mailbox -n '{seen}' -a '(__mailbox_agents)'")
        elif _places(verb):
            lines.append(f"complete -c mailbox -n '{seen}' -a {_fish(_places(verb))}")
    return "\n".join(lines) + "\n"


def _options(verb: str) -> Iterator[Opt]:
    return (each.what for each in parameters(find(verb)) if isinstance(each.what, Opt))


def _places(verb: str) -> str:
    """Return the values of positional arguments: names of agents, or words."""
    for each in parameters(find(verb)):
        if isinstance(each.what, Arg):
            return "@agents" if each.what.metavar in _NAMES else " ".join(each.what.values)
    return ""


def _first_words() -> list[str]:
    return following("")


def _groups() -> list[str]:
    """The first words that others may follow."""
    return [first for first in following("") if following(first)]


def _nexts() -> Iterator[tuple[str, str]]:
    """Yield the words that may come first, and those after each beginning of a longer verb."""
    yield "", " ".join([*_first_words(), "--help", "--version"])
    for first in _groups():
        yield first, " ".join(following(first))
        for second in following(first):
            if words := following(f"{first} {second}"):
                yield f"{first} {second}", " ".join(words)


def _pattern(verb: str) -> str:
    return verb.replace(" ", "-")


def _about(first: str, summary: Callable[[str], str]) -> str:
    from .verbs import GROUPS

    return GROUPS.get(first) or summary(first)


def _zsh_lines(verb: str) -> Iterator[str]:
    for option in _options(verb):
        about = option.help.replace("[", "(").replace("]", ")").replace(":", " -")
        for name in option.names:
            yield f"*{name}[{about}]" + (f":{option.metavar}:{_zsh_values(option)}" if option.metavar else "")
    if _places(verb) == "@agents":
        yield "*:agent:_mailbox_agents"
    elif _places(verb):
        yield f"*:word:({_places(verb)})"


def _zsh_values(option: Opt) -> str:
    if option.values:
        return f"({' '.join(option.values)})"
    return {"NAME": "_mailbox_agents", "DIR": "_directories"}.get(option.metavar, " ")


def _fish_option(option: Opt) -> str:
    words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.metavar:
        words.append("-r")
    if option.values:
        words.append(f"-a {_fish(' '.join(option.values))}")
    elif option.metavar == "NAME":
        words.append("-a '(__mailbox_agents)'")
    elif option.metavar == "DIR":
        words.append("-F")
    return " ".join([*words, f"-d {_fish(option.help)}"])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
