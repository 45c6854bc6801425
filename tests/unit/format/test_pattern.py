"""Regular expressions that are compiled when they are needed."""

import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from filemailbox.format.pattern import Pattern


@given(st.text(alphabet="ab1é", max_size=6))
def test_it_is_the_expression_of_re(text: str) -> None:
    """With re.ASCII: \\w and \\d are those of ASCII."""
    pattern, plain = Pattern(r"\w+\d?"), re.compile(r"\w+\d?", re.ASCII)

    for _ in range(2):  # the first use and those after it
        assert bool(pattern.fullmatch(text)) == bool(plain.fullmatch(text))
        assert pattern.sub("_", text) == plain.sub("_", text)


def test_re_is_not_imported_before() -> None:
    """That is all that it is for."""
    program = (
        "import sys; from filemailbox.format.pattern import Pattern; p = Pattern('a')\n"
        "print('re' in sys.modules, bool(p.fullmatch('a')), 're' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said == "False True True\n"
