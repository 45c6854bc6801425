"""relay.toml: a valid policy, or an error with all that is wrong."""

import textwrap

import pytest

from filemailbox.relay.policy import Policy, RelaySettings
from filemailbox.relay.policy_file import InvalidPolicyError, parse_policy

AGENTS = """
    [agents.planner]
    volume = "/srv/planner"
    [agents.coder-1]
    volume = "/srv/coder-1"
    [agents.coder-2]
    volume = "/srv/coder-2"
    [agents.admin]
    volume = "/srv/admin"
    [groups]
    coders = ["coder-1", "coder-2"]
"""


def read(rules: str, agents: str = AGENTS) -> Policy:
    return parse_policy(textwrap.dedent(agents) + textwrap.dedent(rules))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[limit]\n", '"limit" at the top is not known (did you mean "limits"?)', id="a-table"),
        pytest.param('[[allow]]\nform = "planner"\nto = "*"\n', 'did you mean "from"?', id="a-key-of-a-rule"),
        pytest.param('[[allow]]\nfrom = "planer"\nto = "*"\n', 'did you mean "planner"?', id="an-agent"),
        pytest.param('[[allow]]\nfrom = "tester-*"\nto = "*"\n', "which no agent fits", id="a-pattern-of-nobody"),
        pytest.param('[[allow]]\nfrom = "team:x"\nto = "*"\n', 'the group "x", which does not exist', id="a-group"),
        pytest.param('[[allow]]\nto = "*"\n', "allow rule 1 has no from", id="no-sender"),
        pytest.param('[[allow]]\nfrom = []\nto = "*"\n', "has no from", id="an-empty-list"),
        pytest.param('[[allow]]\nfrom = "*"\nto = "*"\ntype = []\n', "expected a type", id="no-types"),
        pytest.param('[[allow]]\nfrom = "*"\nto = "*"\ntype = [1]\n', "expected a type", id="a-type-of-another-type"),
        pytest.param('[[allow]]\nfrom = "*"\nto = "*"\nwithin = "1h"\n', "for reply_only", id="within-alone"),
        pytest.param('[[allow]]\nfrom = "*"\nto = "*"\nmin_protection = "secret"\n', "one of plain", id="a-form"),
        pytest.param('[[deny]]\nfrom = "*"\nto = "*"\nmax_bytes = 1\n', '"max_bytes" in deny', id="a-denial-is-whole"),
        pytest.param('[[allow]]\nfrom = "*"\nto = "*"\nmax_bytes = true\n', "expected bytes", id="true-is-no-number"),
        pytest.param('allow = "all"\n', "allow is not a list of rules", id="rules-that-are-text"),
        pytest.param('[limits]\nrate = "fast"\n', 'such as "10/s"', id="a-rate"),
        pytest.param('[limits]\nquota_bytes = "1/fortnight"\n', 'such as "64MiB/d"', id="a-quota"),
        pytest.param('[relay]\nstate = "here"\n', "an absolute path", id="a-path"),
        pytest.param('[relay]\norigin = "A relay"\n', "a name of", id="an-origin"),
        pytest.param("[relay]\npoll_interval = 1\n", "a duration", id="a-number-without-a-unit"),
        pytest.param("[agents.BOB]\nvolume = '/b'\n", '"BOB" cannot be the name of an agent', id="a-name"),
        pytest.param("[agents.all]\nvolume = '/b'\n", '"all" cannot be the name of an agent', id="the-name-of-all"),
        pytest.param("[agents.bob]\nuid = 1\n", "[agents.bob] names no volume", id="no-volume"),
        pytest.param("[agents.bob]\nvolume = '/b'\nuid = -1\n", "a numeric user", id="a-uid"),
        pytest.param("version = 2\n", 'its version is "2"', id="a-version-to-come"),
        pytest.param("what is this", "it is not TOML", id="not-toml"),
    ],
)
def test_what_is_wrong_is_not_taken(text: str, problem: str) -> None:
    """What is misspelt, unknown or of another type is an error, and the likeliest meaning is named."""
    with pytest.raises(InvalidPolicyError) as refused:
        parse_policy(text + textwrap.dedent(AGENTS) if "[agents" not in text or "BOB" in text else text)

    assert any(problem in each for each in refused.value.problems), refused.value.problems


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Nobody likes to be told of one mistake after the other."""
    with pytest.raises(InvalidPolicyError) as refused:
        read('[[allow]]\nfrom = "x"\nto = "y"\n[[deny]]\nfrom = "z"\nto = "*"\ntypo = 1\n')

    assert len(refused.value.problems) == 4


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        pytest.param(
            '[[allow]]\nfrom = "planner"\nto = "team:coders"\n[[allow]]\nfrom = ["planner"]\nto = "coder-*"\n',
            "allow rule 1 and allow rule 2 are the same",
            id="said-twice",
        ),
        pytest.param(
            '[[allow]]\nfrom = "planner"\nto = "admin"\n[[deny]]\nfrom = "*"\nto = "admin"\n',
            "allow rule 1 allows nothing: all of it is denied",
            id="all-of-it-denied",
        ),
        pytest.param(
            '[[allow]]\nfrom = "planner"\nto = "admin"\ntype = "x"\n[[deny]]\nfrom = "*"\nto = "admin"\ntype = "*"\n',
            "allows nothing",
            id="every-type-denied",
        ),
        pytest.param(
            '[[allow]]\nname = "a"\nfrom = "planner"\nto = "admin"\n[[allow]]\nname = "a"\nfrom = "admin"\nto = "*"\n',
            'two rules are called "a"',
            id="one-name-for-two",
        ),
    ],
)
def test_a_rule_that_can_not_have_been_meant_is_an_error(rules: str, problem: str) -> None:
    """A rule that says what another says, or that never applies, was meant to be something else."""
    with pytest.raises(InvalidPolicyError, match=problem):
        read(rules)


@pytest.mark.parametrize(
    ("one", "two", "apart"),
    [
        pytest.param("uid = 1", "uid = 2", True, id="uids-of-their-own"),
        pytest.param("uid = 1", "uid = 1", False, id="one-uid"),
        pytest.param("uid = 1", "", False, id="one-without-a-uid"),
    ],
)
def test_who_shares_a_volume_needs_a_uid_of_its_own(one: str, two: str, apart: bool) -> None:
    """The volume tells who sent what: where two have one, the uid must."""
    text = f'[agents.a]\nvolume = "/srv/x"\n{one}\n[agents.b]\nvolume = "/srv/x/"\n{two}\n'
    if apart:
        assert set(parse_policy(text).agents) == {"a", "b"}
    else:
        with pytest.raises(InvalidPolicyError, match="nothing distinguishes them"):
            parse_policy(text)


def test_no_volume_lies_within_another() -> None:
    """Whoever has the outer one has both."""
    text = '[agents.a]\nvolume = "/srv/x"\n[agents.b]\nvolume = "/srv/y/../x/b/"\n'

    with pytest.raises(InvalidPolicyError, match='"/srv/x/b" is inside "/srv/x"'):
        parse_policy(text)


def test_settings_are_read() -> None:
    """Spans, sizes and flags, each in words that a person writes."""
    text = """
        [relay]
        state = "/var/x"
        key = "/etc/y"
        origin = "hub"
        bodies = true
        segment = "1MiB"
        poll_interval = "500ms"
        bounce_after = "2d"
    """
    settings = read(text).settings

    assert settings == RelaySettings("/var/x", "/etc/y", "hub", True, 1 << 20, 0.5, 172800.0)
    assert read("").digest != read(text).digest


def test_answers_are_only_limited_where_only_answers_are_allowed() -> None:
    """A number that would mean nothing was meant to be something else."""
    with pytest.raises(InvalidPolicyError, match="answers, which is only for reply_only"):
        read('[[allow]]\nfrom = "planner"\nto = "coder-1"\nanswers = 3\n')
