"""Who may write to whom: pure, so that every rule can be tried in no time."""

import random
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.format.address import Address
from filemailbox.relay.limits import Quota, TokenBucket
from filemailbox.relay.policy import Decision, Policy, PolicyQuery, Rate, RelaySettings
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
        with pytest.raises(InvalidPolicyError, match="nothing tells them apart"):
            parse_policy(text)


def test_no_volume_lies_within_another() -> None:
    """Whoever has the outer one has both."""
    text = '[agents.a]\nvolume = "/srv/x"\n[agents.b]\nvolume = "/srv/y/../x/b/"\n'

    with pytest.raises(InvalidPolicyError, match='"/srv/x/b" is inside "/srv/x"'):
        parse_policy(text)


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


def test_a_rate_is_kept() -> None:
    """The burst at once, then as fast as the rate is; silence does not save up more than the burst."""
    bucket = TokenBucket(Rate(2, 1.0), 3)

    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == 0.5
    assert not bucket.take(0.4)
    assert bucket.take(0.5)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_no_rate_is_exceeded_whatever_the_clock_says(count: int, burst: int, times: list[float]) -> None:
    """Over the whole time no more go than the burst and what the rate gives, also where the clock goes back."""
    bucket = TokenBucket(Rate(count, 1.0), burst)
    taken = sum(bucket.take(now) for now in times)

    assert taken <= burst + count * max(times, default=0) + 1e-6


def test_without_a_rate_nothing_waits() -> None:
    """A rate of "none"."""
    bucket = TokenBucket(None, 1)

    assert all(bucket.take(0.0) for _ in range(10))
    assert bucket.wait(0.0) == 0


def test_a_quota_is_for_each_hour_or_day_anew() -> None:
    """What is over it is refused until the clock begins the next one."""
    quota = Quota(Rate(3, 60.0))
    quota.use(10.0, 2)

    assert quota.has_room(59.0, 1)
    assert not quota.has_room(59.0, 2)
    assert quota.has_room(60.0, 3)
    quota.use(60.0, 3)
    assert not quota.has_room(10.0, 1)  # a clock that was set back gives nothing back
    assert Quota(None).has_room(0.0, 1 << 40)


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
