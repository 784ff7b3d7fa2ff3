"""Ages of what a role waits for: counted from the last change of its mark, by what it is and not how it is worded."""

from darts_async.algorithms.wait_graph import Pending
from darts_async.messages import Wait
from darts_async.runtime.waiting import Ages


def test_ages_count_from_the_last_change():
    ages = Ages()
    groups = Pending("selector-0", "waits for 2 groups", mark=5)
    assert ages.look([groups], 10.0) == (Wait("selector-0", "waits for 2 groups", 0.0),)
    assert ages.look([groups], 13.0)[0].age_s == 3.0
    assert ages.look([Pending("selector-0", "waits for 2 groups", mark=6)], 14.0)[0].age_s == 0.0
    assert ages.look([], 15.0) == ()
    assert ages.look([groups], 16.0)[0].age_s == 0.0  # it was over in between


def test_a_text_that_counts_does_not_begin_anew():
    ages = Ages()
    ages.look([Pending("", "decodes 2, the oldest for 1 s", mark=40, key="decodes")], 1.0)
    (wait,) = ages.look([Pending("", "decodes 2, the oldest for 9 s", mark=40, key="decodes")], 9.0)
    assert wait == Wait("", "decodes 2, the oldest for 9 s", 8.0)
    (wait,) = ages.look([Pending("", "decodes 2, the oldest for 10 s", mark=41, key="decodes")], 10.0)
    assert wait.age_s == 0.0


def test_the_oldest_first_and_bounded():
    ages = Ages()
    ages.look([Pending("", "b")], 0.0)
    assert [wait.what for wait in ages.look([Pending("", "a"), Pending("", "b")], 5.0)] == ["b", "a"]
    many = ages.look([Pending("x" * 1000, f"{number}" * 1000) for number in range(1000)], 6.0)
    assert len(many) == 32
    assert max(len(wait.what) for wait in many) == 256
