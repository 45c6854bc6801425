"""The log: the logger `filemailbox`.

It is silent until the program gives it a handler, but for run(): a listener without any logging writes to standard
error. A record has its facts as fields, in the attribute `mailbox`: `event`, `box`, `id`, `attempt`, `consumer`.

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


def info(text: str, *arguments: object, **fields: object) -> None:
    """Log a detail: a retry, a duplicate."""
    _logger().info(text, *arguments, extra={"mailbox": fields})


def warning(text: str, *arguments: object, **fields: object) -> None:
    """Log an event that an operator may want to see: a dead letter, a consumer that died."""
    _logger().warning(text, *arguments, extra={"mailbox": fields})


def error(text: str, *arguments: object, **fields: object) -> None:
    """Log a failure of this program or its surroundings."""
    _logger().error(text, *arguments, extra={"mailbox": fields})


def speak() -> None:
    """Log to standard error if the program has configured no logging: run() does, so that no failure passes unseen."""
    import logging

    logger = _logger()
    if logging.getLogger().handlers or any(type(each) is not logging.NullHandler for each in logger.handlers):
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("mailbox: %(message)s"))
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def quieten(name: str) -> None:
    """Let the logger of a library pass only warnings and errors."""
    import logging

    logging.getLogger(name).setLevel(logging.WARNING)
