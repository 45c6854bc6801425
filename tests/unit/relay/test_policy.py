"""Who may write to whom: pure, so that every rule can be tried in no time."""

import random
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.format.address import Address
from filemailbox.relay.policy import Decision, Policy, PolicyQuery
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


def problems(rules: str) -> Policy | int:
    """The policy, or how much is wrong with it."""
    try:
        return read(rules)
    except InvalidPolicyError as error:
        return len(error.problems)


def asked(sender: str, to: str, type: str | None = None, **facts: Any) -> PolicyQuery:
    return PolicyQuery(Address(sender), to, type, **facts)


def test_what_nothing_allows_is_refused() -> None:
    """Default deny: a policy without rules lets nobody write to anybody, and says so."""
    decision = read("").decide(asked("planner", "coder-1", "task"))

    assert not decision.allowed
    assert decision.rule == "default"
    assert decision.why == 'no rule allows planner to send mail of type "task" to coder-1'


TASKS = """
    [[allow]]
    name = "tasks"
    from = "planner"
    to = "team:coders"
    type = ["task", "cancel.*"]
"""


@pytest.mark.parametrize(
    ("sender", "to", "type", "allowed"),
    [
        pytest.param("planner", "coder-1", "task", True, id="it-fits"),
        pytest.param("planner", "coder-2", "cancel.all", True, id="a-star-stands-for-anything"),
        pytest.param("planner", "coder-2", "cancel", False, id="a-pattern-is-for-the-whole-type"),
        pytest.param("planner", "coder-2", None, False, id="no-type-is-another-type"),
        pytest.param("planner", "admin", "task", False, id="another-recipient"),
        pytest.param("coder-1", "planner", "task", False, id="not-the-other-way-round"),
        pytest.param("coder-1", "coder-2", "task", False, id="another-sender"),
        pytest.param("planner", "nobody", "task", False, id="there-is-no-such-agent"),
    ],
)
def test_a_rule_allows_what_it_says_and_no_more(sender: str, to: str, type: str | None, allowed: bool) -> None:
    """Sender, recipient and type: all of them must fit."""
    decision = read(TASKS).decide(asked(sender, to, type))

    assert decision.allowed is allowed
    assert (decision.rule == "tasks") is allowed
    assert bool(decision.why) is not allowed


@pytest.mark.parametrize("turned", [False, True], ids=["deny-last", "deny-first"])
def test_a_denial_overrides_whatever_allows_it(turned: bool) -> None:
    """Wherever it stands."""
    rules = ['[[allow]]\nfrom = "*"\nto = "*"\n', '[[deny]]\nname = "closed"\nfrom = "coder-*"\nto = "admin"\n']
    read_so = read("\n".join(reversed(rules) if turned else rules))

    assert read_so.decide(asked("coder-1", "admin")) == Decision(False, "closed", "closed forbids it")
    assert read_so.decide(asked("planner", "admin")).allowed
    assert read_so.decide(asked("coder-1", "coder-2")).allowed


@pytest.mark.parametrize(
    ("condition", "facts", "why"),
    [
        pytest.param("max_bytes = 100", {"size": 100}, None, id="just-small-enough"),
        pytest.param("max_bytes = 100", {"size": 101}, "at most 100 bytes", id="too-large"),
        pytest.param(
            'min_protection = "signed"', {"protection": "plain"}, "only signed or sealed mail", id="not-signed"
        ),
        pytest.param('min_protection = "signed"', {"protection": "sealed"}, None, id="sealed-is-signed-too"),
        pytest.param('min_protection = "sealed"', {"protection": "signed"}, "only sealed mail", id="not-sealed"),
        pytest.param("reply_only = true", {}, "allows only replies", id="no-answer"),
        pytest.param("reply_only = true", {"reply_age": 3600.0}, None, id="an-answer"),
        pytest.param("reply_only = true", {"reply_age": 3601.0}, "too late", id="an-answer-after-an-hour"),
        pytest.param('reply_only = true\nwithin = "5s"', {"reply_age": 6.0}, "too late", id="sooner-if-it-says-so"),
    ],
)
def test_what_a_rule_asks_for_beyond_that_must_hold(condition: str, facts: dict[str, Any], why: str | None) -> None:
    """Size, form, being an answer; what is missing is said."""
    rules = f'[[allow]]\nname = "it"\nfrom = "planner"\nto = "admin"\n{condition}\n'
    decision = read(rules).decide(asked("planner", "admin", **facts))

    assert decision.allowed is (why is None)
    assert decision.rule == "it"
    assert (why or "") in decision.why


def test_one_rule_that_fits_in_all_its_parts_is_enough() -> None:
    """Rules do not narrow each other: each is a grant of its own."""
    rules = """
        [[allow]]
        name = "small"
        from = "planner"
        to = "admin"
        max_bytes = 10
        [[allow]]
        name = "sealed"
        from = "planner"
        to = "admin"
        min_protection = "sealed"
    """
    both = read(rules)

    assert both.decide(asked("planner", "admin", size=5)).rule == "small"
    assert both.decide(asked("planner", "admin", size=50, protection="sealed")).rule == "sealed"
    refused = both.decide(asked("planner", "admin", size=50))
    assert not refused.allowed
    assert "small allows at most" in refused.why
    assert "sealed allows only" in refused.why


def test_an_agent_has_limits_whatever_rules_allow() -> None:
    """Its own, or those of [limits]."""
    agents = """
        [limits]
        max_bytes = "1KiB"
        [agents.a]
        volume = "/srv/a"
        [agents.b]
        volume = "/srv/b"
        max_bytes = 2048
        min_protection = "signed"
        [[allow]]
        from = "*"
        to = "*"
    """
    limited = read("", agents)

    assert not limited.decide(asked("a", "b", size=1025)).allowed
    assert limited.decide(asked("a", "b", size=1024)).allowed
    assert limited.decide(asked("b", "a", size=1025, protection="signed")).allowed
    refused = limited.decide(asked("b", "a", size=1))
    assert (refused.rule, refused.why) == ("limits", "b must send signed or sealed mail, and it is plain")


RULES = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["allow", "allow", "deny"]),
            "from": st.sampled_from(["*", "planner", "coder-*", "team:coders"]),
            "to": st.sampled_from(["*", "admin", "coder-1", "team:coders"]),
        },
        optional={
            "type": st.sampled_from(["task", "*", "t*", ""]),
            "max_bytes": st.sampled_from([10, 1000]),
            "min_protection": st.sampled_from(["signed", "sealed"]),
            "reply_only": st.just(True),
        },
    ),
    max_size=6,
    unique_by=repr,
)


@given(RULES, st.randoms(use_true_random=False))
def test_the_order_of_rules_means_nothing(rules: list[dict[str, Any]], chance: random.Random) -> None:
    """Every question has the same answer however the rules are shuffled, the deciding rule included."""

    def text(rules: list[dict[str, Any]]) -> str:
        return "".join(
            f"[[{rule['kind']}]]\nname = {quote(names[id(rule)])}\n"
            + "".join(
                f"{key} = {quote(value)}\n"
                for key, value in rule.items()
                if key != "kind"
                and not (rule["kind"] == "deny" and key in ("max_bytes", "min_protection", "reply_only"))
            )
            for rule in rules
        )

    def quote(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)

    names = {id(rule): f"rule {number}" for number, rule in enumerate(rules)}
    shuffled = list(rules)
    chance.shuffle(shuffled)
    first, second = problems(text(rules)), problems(text(shuffled))
    if not isinstance(first, Policy) or not isinstance(second, Policy):
        assert first == second
        return

    for sender in ("planner", "coder-1", "admin"):
        for to in ("planner", "coder-1", "admin"):
            for type in (None, "task", "other"):
                for facts in ({}, {"size": 500}, {"protection": "sealed", "reply_age": 1.0}):
                    question = asked(sender, to, type, **facts)
                    assert first.decide(question) == second.decide(question)


@pytest.mark.parametrize(
    ("to", "sender", "members"),
    [
        pytest.param("admin", "planner", ["admin"], id="one"),
        pytest.param("team:coders", "planner", ["coder-1", "coder-2"], id="a-team"),
        pytest.param("team:coders", "coder-1", ["coder-2"], id="never-oneself"),
        pytest.param("team:nobody", "planner", None, id="no-such-team"),
        pytest.param("all", "planner", ["coder-1", "coder-2"], id="all-whom-it-may-reach"),
        pytest.param("all", "coder-1", None, id="nobody"),
    ],
)
def test_groups_are_expanded(to: str, sender: str, members: list[str] | None) -> None:
    """Members of a team are asked for one by one; `all` are those who may be written to."""
    found, why = read(TASKS).expand(to, Address(sender), "task")

    assert found == (members or [])
    assert bool(why) is (members is None)


def test_a_team_of_oneself_is_nobody() -> None:
    """Mail to it would go nowhere: that is said."""
    _, why = read('[groups]\nme = ["planner"]\n', AGENTS.split("[groups]")[0]).expand(
        "team:me", Address("planner"), None
    )

    assert why == '"team:me" has no member but planner'


def test_who_can_reach_whom_is_listed() -> None:
    """Each pair with the rule and its conditions; what is denied in part says so, what is denied whole is left out."""
    rules = """
        [[allow]]
        name = "talk"
        from = "planner"
        to = ["coder-1", "admin"]
        [[deny]]
        name = "quiet"
        from = "*"
        to = "admin"
        type = "noise"
        [[allow]]
        name = "back"
        from = "coder-1"
        to = "planner"
        reply_only = true
        max_bytes = 10
    """
    listed = [(each.sender, each.to, each.rule, each.conditions) for each in read(rules).routes()]

    assert listed == [
        ("coder-1", "planner", "back", "at most 10 bytes; only replies, within 3600 s, at most 16 to one message"),
        ("planner", "admin", "talk", 'not type "noise"'),
        ("planner", "coder-1", "talk", ""),
    ]
