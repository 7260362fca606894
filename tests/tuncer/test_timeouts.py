"""Timeouts that a user gives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer.protocol.timeouts import check_timeout


@given(st.none() | st.integers(0) | st.floats(0, allow_nan=False))
def test_none_and_numbers_from_0_on_are_timeouts(timeout: float | None) -> None:
    check_timeout(timeout)


@pytest.mark.parametrize("timeout", [-1, -0.1, math.nan, -math.inf])
def test_other_numbers_are_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="from 0 on"):
        check_timeout(timeout)


@pytest.mark.parametrize("timeout", [True, "1", [1], 1j])
def test_what_is_no_number_is_refused(timeout: object) -> None:
    with pytest.raises(TypeError, match="a number of seconds or None"):
        check_timeout(timeout)
