"""Supervisors against Erlang/OTP's own: the short form."""

from pathlib import Path
from typing import Any

import pytest
from otp_cases import compare


@pytest.mark.slow
def test_the_same_as_otp(tmp_path: Path, capfd: Any) -> None:
    compare(100, tmp_path, capfd, derandomize=True)
