"""Makes lists of the columns in docstrings, which Markdown would run together into one paragraph.

    durable    flush every message to the disk
    max_size   bytes that a message may have,
               sent or received

becomes a definition list. An example that is indented by four is code already.
"""

import re

import griffe

ROW = re.compile(r"(\w+)  +(\S.*)")


class Columns(griffe.Extension):
    """For every object that has a docstring."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(_list, obj.docstring.value.split("\n\n")))


def _list(paragraph):
    lines = paragraph.splitlines()
    rows = []
    for line in lines:
        if found := ROW.fullmatch(line):
            rows.append([found[1], found[2]])
        elif rows and line.startswith("    "):
            rows[-1][1] += " " + line.strip()
        else:
            return paragraph
    return "\n".join(f"`{name}`\n:   {text}\n" for name, text in rows)
