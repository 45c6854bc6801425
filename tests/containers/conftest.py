"""Run by scripts/test-containers, which brings the engine; without one these tests are not collected.

Each prints a line, its name as a sentence, and what it measured.
"""

import os
from collections.abc import Callable, Iterator

import pytest

from containers.engine import Container, Engine

collect_ignore_glob = [] if "MAILBOX_CONTAINERS" in os.environ else ["test_*.py"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """The engine. What a test makes there is removed when it is over."""
    engine = Engine()
    yield engine
    engine.clear()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """tell(text): a figure, printed with the test's name."""
    return lambda text: record_property("told", text)


@pytest.fixture(scope="module")
def project() -> Iterator[Callable[[str], Container]]:
    """compose.yaml, up: project("bob") is the container of a service."""
    engine = Engine()
    engine.compose("up", "--detach", "--no-build")

    def service(name: str) -> Container:
        return Container(engine, engine.compose("ps", "--quiet", name).out.split()[0])

    yield service
    engine.compose("down", "--volumes")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """No dots: each test has a line."""
    return ("passed", "", "") if report.passed and report.when == "call" else None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if "MAILBOX_CONTAINERS" in os.environ and terminal is not None:
        config.pluginmanager.register(_Lines(terminal), "lines")


class _Lines:
    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            told = "; ".join(str(value) for key, value in report.user_properties if key == "told")
            self._terminal.ensure_newline()
            self._terminal.write_line(f"{'ok' if report.passed else 'NOT ok'}  {name}{f': {told}' if told else ''}")
