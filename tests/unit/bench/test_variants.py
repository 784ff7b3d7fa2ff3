"""Settings as people write them: the product, the labels, and what is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.bench.variants import Variant, make_variants
from darts_async.errors import ConfigError


def test_no_axes_are_one_point_without_a_name():
    assert make_variants([], []) == [Variant("", ())]


def test_all_variants_are_one_axis_and_every_grid_another():
    points = make_variants(
        ["on: a.mode=stream", "off: a.mode=async, a.eta=2"], ["b.cap=2,3", 'b.fix=x,["y", "z"]', "c.s=[],[1, 2]"]
    )
    assert len(points) == 16
    assert points[0] == Variant(
        "on, cap 2, fix x, s []", (("a.mode", "stream"), ("b.cap", "2"), ("b.fix", "x"), ("c.s", "[]"))
    )
    assert points[-1] == Variant(
        "off, cap 3, fix y+z, s [1, 2]",
        (("a.mode", "async"), ("a.eta", "2"), ("b.cap", "3"), ("b.fix", '["y", "z"]'), ("c.s", "[1, 2]")),
    )
    assert points[1].label == "on, cap 2, fix x, s [1, 2]"  # the last grid is the fastest


def test_a_name_may_be_the_preset_as_it_is_and_values_may_hold_colons():
    points = make_variants(["plain:", "own: learner.loss=losses.py:mine"], [])
    assert [(point.label, point.overrides) for point in points] == [
        ("plain", ()),
        ("own", (("learner.loss", "losses.py:mine"),)),
    ]


def test_a_folder_name_of_a_label():
    assert Variant("eta 0, correction a+b (0.5)").folder == "eta-0-correction-a-b-0.5"


@pytest.mark.parametrize(
    ("variants", "grids", "rule"),
    [
        (["pipeline.mode=stream"], [], "needs a name"),
        (["learner.loss=own.py:mine"], [], "needs a name"),
        (["a: mode=stream"], [], "is not an assignment"),
        (["a: p.mode"], [], "is not an assignment"),
        (["a: p.mode=x, p.mode=y"], [], "sets p.mode twice"),
        ([], ["p.mode"], "is not an assignment"),
        ([], ["p.mode=a,,b"], "has an empty value"),
        ([], ['p.mode=["a","b"'], "leaves a bracket or a quote open"),
        ([], ["p.mode=[a b]"], "is not a TOML list"),
        ([], ["p.mode=a,b", "p.mode=c"], "is set by two of them"),
        (["x: p.mode=a"], ["p.mode=b"], "is set by two of them"),
        ([], ["p.mode=a,a"], "makes two rows"),
        ([], ['p.mode=a+b,["a","b"]'], "makes two rows"),
        ([], [f"p.k{i}=1,2,3" for i in range(5)], "at most 200 cells"),
    ],
)
def test_what_is_refused(variants, grids, rule):
    with pytest.raises(ConfigError, match=rule):
        make_variants(variants, grids)


words = st.text("abcxyz0123456789_.", min_size=1, max_size=4)


@given(st.lists(st.lists(words, min_size=1, max_size=3, unique=True), min_size=1, max_size=3))
def test_every_combination_is_there_once(axes):
    points = make_variants([], [f"s.k{i}=" + ",".join(values) for i, values in enumerate(axes)])
    count = 1
    for values in axes:
        count *= len(values)
    assert len({point.overrides for point in points}) == len({point.folder for point in points}) == count
