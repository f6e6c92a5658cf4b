"""Rows are joined and come apart again."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.batch_rows import joined, parted


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_parting_undoes_joining(sizes):
    requests = [{"x": np.full((rows, 2), number, np.float32)} for number, rows in enumerate(sizes)]
    parts = parted(joined(requests), sizes)
    for request, part in zip(requests, parts, strict=True):
        np.testing.assert_array_equal(part["x"], request["x"])
