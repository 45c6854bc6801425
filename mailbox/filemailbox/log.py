"""The log, imported when there is something to say.

`logging` costs a sender more to import than its message costs to send; and most processes have nothing to tell. What is
said here goes to the logger `filemailbox`, which is silent until the program gives it a handler.
"""

from typing import Any


def _logger() -> Any:
    import logging

    logger = logging.getLogger("filemailbox")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def info(text: str, *arguments: object) -> None:
    """For those who follow closely: retries, keys already handled."""
    _logger().info(text, *arguments)


def warning(text: str, *arguments: object) -> None:
    """Something that a person may want to look at: a dead letter, a consumer that died."""
    _logger().warning(text, *arguments)


def error(text: str, *arguments: object) -> None:
    """Something that is wrong here."""
    _logger().error(text, *arguments)


def quieten(name: str) -> None:
    """Let the logger of a library say only what is wrong."""
    import logging

    logging.getLogger(name).setLevel(logging.WARNING)
