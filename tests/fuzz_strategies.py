"""What fuzzed properties are given, values, damaged files and lines, and how an outcome is judged.

DSD_FUZZ_EXAMPLES=5000 pytest tests/test_fuzz_*.py looks longer.
"""

import json
import os
import shutil
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(
    max_examples=int(os.environ.get("DSD_FUZZ_EXAMPLES", "60")),
    deadline=10_000,  # ms of one example: far more than any takes, far less than a hang
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.just(10**400), st.sampled_from([0, -1, 1.5, True, None])
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "../../x", "/etc/passwd", "a\x00b", "\ud800", "\u2028", "=1+1", "x" * 300, "{}", "NaN"]
    ),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
DEEP = b'{"a":' * 3000, b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"


@st.composite
def damaged(draw, whole):
    """A file with bits flipped, bytes replaced, cut, doubled or added, anywhere."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "drop", "repeat", "add", "number"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "add":
            data[at:at] = draw(st.binary(max_size=16))
        else:
            data[at : at + 4] = struct.pack("<I", draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**32 - 1])))
    return bytes(data)


@contextmanager
def folder():
    """A new folder for one example."""
    path = Path(tempfile.mkdtemp(prefix="dsd-fuzz-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def outcome(call, *documented):
    """What a call returns; None if it raises what it documents, and none of the kinds that are faults."""
    try:
        return call()
    except documented as error:
        if isinstance(error, KeyError | IndexError):
            raise
        return None


def lines_of(rows):
    """JSON lines, some of which are none."""
    return st.lists(
        st.one_of(rows.map(lambda x: json.dumps(x).encode()), st.sampled_from(DEEP), st.binary(max_size=30)),
        max_size=5,
    ).map(b"\n".join)
