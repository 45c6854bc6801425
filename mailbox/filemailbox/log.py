"""The log: the logger `filemailbox`, which is silent until the program gives it a handler.

`logging` takes longer to import than a message to send, and most processes log nothing. It is imported at the first
record.
"""

from typing import Any


def _logger() -> Any:
    import logging

    logger = logging.getLogger("filemailbox")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def info(text: str, *arguments: object) -> None:
    """Log a detail: a retry, a duplicate."""
    _logger().info(text, *arguments)


def warning(text: str, *arguments: object) -> None:
    """Log an event that an operator may want to see: a dead letter, a consumer that died."""
    _logger().warning(text, *arguments)


def error(text: str, *arguments: object) -> None:
    """Log a failure of this program or its surroundings."""
    _logger().error(text, *arguments)


def quieten(name: str) -> None:
    """Let the logger of a library pass only warnings and errors."""
    import logging

    logging.getLogger(name).setLevel(logging.WARNING)
