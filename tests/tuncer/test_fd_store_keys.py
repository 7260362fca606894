"""The names of descriptors in the fd store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuncer.protocol import fd_store_keys
from tuncer.protocol.fd_store_keys import EVENTFD, HANDSHAKE, QUIET, WITH_EVENTS, StoreKey

OF_DEVICE = [key for key in vars(fd_store_keys).values() if isinstance(key, StoreKey)]


@pytest.mark.parametrize("key", OF_DEVICE, ids=str)
def test_a_descriptor_of_the_device_is_found_by_its_name(key: StoreKey) -> None:
    assert StoreKey.parse(str(key)) == key
    assert not key.is_connection


@given(st.sampled_from([QUIET, WITH_EVENTS, EVENTFD, HANDSHAKE]), st.integers(0))
def test_a_subscribers_descriptor_is_found_by_its_name(kind: str, number: int) -> None:
    key = StoreKey(kind, number)
    assert StoreKey.parse(str(key)) == key
    assert key.is_connection == (kind in {QUIET, WITH_EVENTS})


@given(st.text())
def test_any_name_is_a_key(name: str) -> None:
    assert isinstance(StoreKey.parse(name), StoreKey)
