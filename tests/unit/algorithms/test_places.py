"""A replica's places: credits of one capacity in all, whoever they were granted to."""

import pytest

from darts_async.algorithms.places import Places
from darts_async.errors import ProtocolError


def test_what_an_earlier_allocator_sent_holds_its_place_and_its_credits_are_void():
    places = Places(4)
    assert [places.take(0, 5), places.take(0, 5)] == ["sample", "sample"]
    assert places.serve(1) and (places.granted, places.free) == (2, 2)
    assert places.take(0, 6) == "void" and places.free == 2
    assert [places.take(1, 7), places.take(1, 7)] == ["sample", "sample"]
    with pytest.raises(ProtocolError, match="request 3 came when 2"):
        places.take(1, 7)
    places.leave()
    assert (places.granted, places.free, places.num_held) == (3, 1, 3)
    assert not places.serve(1) and not places.serve(0) and places.granted == 3


def test_a_request_of_a_group_that_is_over_gives_its_credit_back_at_once():
    places = Places(1)
    places.drop_below(5)
    places.drop_below(3)  # late news
    assert [places.take(0, 4), places.take(0, 4), places.take(0, 5)] == ["over", "over", "sample"]
    assert (places.granted, places.free, places.num_requests) == (3, 0, 3)
