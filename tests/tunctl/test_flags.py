"""Flags: what may be asked for, and how they are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer.tunctl import Flag
from tuncer.tunctl.flags import REPORTED, difference, named, parse

FLAGS = st.sets(st.sampled_from(list(Flag))).map(lambda found: Flag(sum(found)))


@given(FLAGS)
def test_flags_are_taken_or_refused_for_a_reason(flags: Flag) -> None:
    one_kind = (Flag.TUN in flags) != (Flag.TAP in flags)
    frags = Flag.NAPI_FRAGS not in flags or (Flag.TAP in flags and Flag.NAPI in flags)
    if one_kind and frags and Flag.PERSIST not in flags:
        assert parse(flags) == flags
    else:
        with pytest.raises(ValueError, match=r"TUN or a TAP|PERSIST|NAPI_FRAGS"):
            parse(flags)


@pytest.mark.parametrize("wrong", ["tun", None, 1.0, True])
def test_flags_of_another_type(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"tuncer\.Flag"):
        parse(wrong)  # type: ignore[arg-type]


@given(FLAGS, FLAGS)
def test_a_difference_names_exactly_the_odd_flags(asked: Flag, given_: Flag) -> None:
    text = difference(asked, given_)
    words = set(text.replace("|", " ").split())
    assert {str(f.name) for f in Flag if f in (asked ^ given_) & REPORTED} == words - {
        "with",
        "without",
        "and",
    }
    assert (named(asked) == "none") == (asked == 0)
