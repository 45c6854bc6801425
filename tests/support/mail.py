"""What comes out of a box, for tests that look at that."""

from typing import Any

from filemailbox import Mailbox


def bodies(box: Mailbox) -> list[Any]:
    """Take all there is, ack it."""
    taken = []
    while (message := box.receive()) is not None:
        taken.append(message.body)
        message.ack()
    return taken


def reasons(box: Mailbox) -> list[str]:
    """Why its dead letters are dead, by the first line of each note."""
    return [message.problem or "" for message in box.peek("dead")]
