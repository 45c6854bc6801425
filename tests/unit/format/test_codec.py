"""JSON by orjson; in the command, the first documents without it."""

import subprocess
import sys

import orjson
import pytest

from filemailbox.format import codec


def run(program: str) -> "subprocess.CompletedProcess[str]":
    """A Python program, in which codec and sys are imported."""
    program = f"import sys; from filemailbox.format import codec\n{program}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def first_of_a_command(text: str) -> "subprocess.CompletedProcess[str]":
    return run(f"codec.spare_orjson(); print(ascii(codec.loads({text!a})))")


@pytest.mark.parametrize("text", ['{"a":[1,0.5,null]}', '"é😀"', " [1]"], ids=ascii)
def test_text_is_read_as_its_bytes_are(text: str) -> None:
    """A body of the command line is text."""
    assert first_of_a_command(text).stdout == f"{orjson.loads(text)!a}\n"


@pytest.mark.parametrize("text", ["[1", '"\ud800"', "\ufeff[1]"], ids=ascii)
def test_text_that_is_not_json_is_refused_in_orjsons_words(text: str) -> None:
    """One with half a surrogate pair has no bytes."""
    with pytest.raises(orjson.JSONDecodeError) as caught:
        orjson.loads(text)
    assert str(caught.value) in first_of_a_command(text).stderr


@pytest.mark.parametrize(
    "call",
    ["codec.dumps({'a': [1, None]}, None, codec.LINE)", "codec.loads(b'{\"a\":[1,null]}')"],
    ids=["written", "read"],
)
def test_what_comes_after_the_first_256_is_orjsons(call: str) -> None:
    """A program with much mail pays once, and then nothing; one with little mail pays nothing."""
    done = run(
        "codec.spare_orjson()\n"
        "done = []\n"
        "for number in range(300):\n"
        f"    done.append(({call}, 'orjson' in sys.modules, 'json' in sys.modules))\n"
        "print(len({str(result) for result, _, _ in done}), [loaded for _, loaded, _ in done].index(True))\n"
        "print(done[9][2], codec.dumps.__module__, codec.loads.__module__, codec.loads(b'[1]'))"
    )

    assert done.stdout.splitlines() == ["1 256", "False orjson orjson [1]"]


@pytest.mark.parametrize("call", ["codec.dumps([1])", "codec.loads(b'[1]')"], ids=["written", "read"])
def test_a_program_that_uses_the_library_reads_and_writes_with_orjson_alone(call: str) -> None:
    """From the first message on: the second reader is for the start of the command."""
    done = run(f"{call}; print('orjson' in sys.modules, 'filemailbox.format.small_json' in sys.modules)")

    assert done.stdout == "True False\n"


def test_without_the_c_functions_of_cpython_all_is_orjsons() -> None:
    """Another Python, or a later one that has them no more."""
    done = run(
        "sys.modules['_json'] = None; codec.spare_orjson()\n"
        "print(codec.dumps({'a': 1}), codec.loads(b'[1]'), 'orjson' in sys.modules)"
    )

    assert done.stdout == "b'{\"a\":1}' [1] True\n"


def test_the_numbers_of_options_are_orjsons() -> None:
    """They are written down because orjson is not imported to ask it."""
    assert (codec.LINE, codec.INDENT, codec.UTC_Z) == (
        orjson.OPT_APPEND_NEWLINE,
        orjson.OPT_INDENT_2,
        orjson.OPT_UTC_Z,
    )
