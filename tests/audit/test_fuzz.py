"""The readers of tests/fuzz.py under Hypothesis, which makes a fault's input as small as it can."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz

ANY = st.integers(0, 2**32 - 1)
SETTINGS = settings(max_examples=500, deadline=None, derandomize=True, database=None,
                    suppress_health_check=[HealthCheck.too_slow])  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _no_file_left_behind():
    yield
    fuzz.scratch().unlink()
    fuzz.scratch.cache_clear()


@pytest.mark.parametrize("name", fuzz.READERS)
def test_no_input_brings_anything_but_declared_errors(name):
    of = fuzz.READERS[name]
    pieces = st.one_of(st.binary(max_size=8), st.sampled_from(of.words or [b""]))
    edits = st.lists(st.tuples(st.integers(0, fuzz.OPERATIONS - 1), ANY, ANY, pieces), max_size=6)

    @SETTINGS
    @given(st.one_of(st.builds(fuzz.edited, st.just(of), ANY, edits), st.binary(max_size=200)))
    def feed(data):
        fuzz.judge(name, data)

    feed()
