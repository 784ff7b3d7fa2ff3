"""Who waits for whom, by hand and under any accounts: the chain, the root, circles, and that nothing is left out."""

from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.wait_graph import count, explain
from darts_async.messages import Wait


def test_the_chain_is_followed_from_the_learner_to_whoever_is_at_work():
    found = explain(
        {
            "allocator-0": [Wait("learner-0", "waits for version 3", 4.0)],
            "learner-0": [Wait("selector-0", "waits for 2 groups", 7.4)],
            "selector-0": [Wait("generator-1", "waits for 1 candidate", 7.0), Wait("generator-0", "for 2", 3.0)],
            "generator-0": [Wait("allocator-0", "waits for requests", 1.0)],
            "generator-1": [Wait("", "decodes 1 candidate", 0.2), Wait("learner-0", "holds 4 requests", 90.0)],
        }
    )
    # generator-0 waits for the allocator, which waits for the learner: a circle, but one way leads out of it.
    assert found.root == ("generator-1",)
    assert not found.is_circle
    assert found.verdict == "it comes down to generator-1, which decodes 1 candidate"
    assert found.sentences == (
        "learner-0 waits for 2 groups (for 7 s)",
        "selector-0 waits for 1 candidate (for 7 s)",
        "selector-0 for 2 (for 3 s)",
        "generator-1 decodes 1 candidate",
        "generator-1 holds 4 requests (for 1 min 30 s)",
        "generator-0 waits for requests (for 1 s)",
        "allocator-0 waits for version 3 (for 4 s)",
    )


def test_a_role_that_says_nothing_is_the_end_of_a_chain():
    found = explain({"learner-0": [Wait("selector-0", "waits for groups", 2.0)], "selector-0": []})
    assert found.root == ("selector-0",)
    assert found.verdict == "it comes down to selector-0, which says nothing of what it does"


def test_a_circle_has_those_alone_who_wait_for_each_other():
    found = explain(
        {
            "learner-0": [Wait("selector-0", "waits for groups", 5.0)],
            "selector-0": [Wait("generator-0", "waits for candidates", 5.0)],
            "generator-0": [Wait("allocator-0", "waits for requests", 5.0)],
            "allocator-0": [Wait("generator-0", "waits for credits", 5.0)],
        }
    )
    assert found.is_circle
    assert found.root == ("generator-0", "allocator-0")
    assert found.verdict.startswith("generator-0, allocator-0 wait for each other in a circle")


def test_without_a_learner_the_longest_wait_comes_first():
    waits = {
        "allocator-0": [Wait("generator-0", "waits for credits", 2.0)],
        "selector-0": [Wait("generator-1", "waits for candidates", 9.0)],
    }
    assert explain(waits).root == ("generator-1",)
    assert explain({}).verdict == explain({"learner-0": []}).verdict == "nobody waits"


def test_one_is_not_many():
    assert [count(number, "group") for number in (0, 1, 2)] == ["0 groups", "1 group", "2 groups"]


_ROLES = ("learner-0", "selector-0", "allocator-0", "generator-0", "generator-1")
_WAITS = st.lists(
    st.builds(Wait, st.sampled_from((*_ROLES, "")), st.sampled_from("abcdef"), st.floats(0, 1e6)), max_size=4
)


@given(st.dictionaries(st.sampled_from(_ROLES), _WAITS))
def test_every_account_is_read_out_once_and_the_root_can_act_or_is_a_circle(waits):
    found = explain(waits)
    said = [sentence.split()[0] for sentence in found.sentences]
    assert sorted(said) == sorted(role for role, its in waits.items() for _ in its)
    assert bool(found.root) == bool(said)
    for role in found.root:
        its = waits.get(role, [])
        waits_for_others = bool(its) and all(wait.whom for wait in its)
        assert waits_for_others == found.is_circle
        if found.is_circle:  # whoever one of a circle waits for is in it
            assert {wait.whom for wait in its} <= set(found.root)
