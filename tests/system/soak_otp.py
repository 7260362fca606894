"""Supervisors against Erlang/OTP's own, a thousand cases. Run by ``make soak``."""

from pathlib import Path
from typing import Any

import pytest
from otp_cases import compare


@pytest.mark.timeout(900)
def test_the_same_as_otp(tmp_path: Path, capfd: Any) -> None:
    compare(1000, tmp_path, capfd, derandomize=False)
