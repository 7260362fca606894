"""Filter expressions, compiled by libpcap."""

from tuncer.tunctl import Program


def test_a_program_knows_its_size() -> None:
    assert len(Program("", bytes(16))) == 2
