"""Waiting for events. A wait ends when its event comes; the limit only ends a test whose event never comes."""

import time
from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

PATIENCE: Final = 120.0
"""Seconds after which an event will not come any more, on the slowest machine under the heaviest load."""

Until: TypeAlias = Callable[[Callable[[], object]], None]


def wait_until(condition: Callable[[], object], limit: float = PATIENCE) -> None:
    """Poll *condition* until it is true. Fails the test after *limit* seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"the awaited event did not come within {limit:g} s"
        time.sleep(0.005)


@pytest.fixture
def until() -> Until:
    """until(condition): wait for an event."""
    return wait_until
