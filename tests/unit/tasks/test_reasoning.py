"""reasoning-gym's data sets: their own verifiers, problems that are the same for every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.errors import ConfigError
from darts_async.tasks import load_task
from darts_async.tasks.entries import packed, unpacked
from darts_async.tasks.reasoning import ReasoningGym

keys = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.integers(), st.text(max_size=2)))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(keys, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)


@given(values)
def test_entries_come_back_as_they_were(value: Any) -> None:
    back = unpacked(packed(value))
    assert back == value and type(back) is type(value)


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="a object cannot be written down"):
        packed({"a": [object()]})


@pytest.fixture
def gym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own for the problems."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.long
@pytest.mark.usefixtures("gym")
def test_a_mixture_is_scored_by_each_data_sets_own_verifier() -> None:
    params = {
        "datasets": [{"name": "knights_knaves", "weight": 2}, {"name": "rearc"}, {"name": "chain_sum"}],
        "size": 24,
        "held_out": 6,
    }
    task = load_task("reasoning_gym", params)
    prompts = [*task.train_prompts(), *task.held_out_prompts()]
    assert {prompt.stratum for prompt in prompts} == {"knights_knaves", "rearc", "chain_sum"}
    assert len(task.held_out_prompts()) == 6
    for prompt in prompts:
        assert task.reward(prompt, f"so <answer>{prompt.answer}</answer>") == 1.0
        assert [task.reward(prompt, text) for text in ("", prompt.answer, "<answer>\ud800{</answer>")] == [0.0] * 3


@pytest.mark.long
@pytest.mark.usefixtures("gym")
def test_partial_credit_and_what_counts_as_the_answer() -> None:
    def task(**more: Any) -> ReasoningGym:
        return ReasoningGym.from_params({"dataset": "chain_sum", "size": 4, "held_out": 0, **more})

    whole, partial = task(extract="response"), task(extract="response", partial=True)
    prompt = whole.train_prompts()[0]
    text = f"the answer is {prompt.answer}"
    assert whole.reward(prompt, text) == 0.0 and 0.0 < partial.reward(prompt, text) < 1.0
    assert task(extract="marker").reward(prompt, f"so #### {prompt.answer}") == 1.0


@pytest.mark.long
@pytest.mark.usefixtures("gym")
def test_another_process_gets_the_same_problems_whatever_its_hashes() -> None:
    """This data set draws from a set of words: other hashes, other problems."""
    code = (
        "from darts_async.tasks import load_task;"
        "t = load_task('reasoning_gym', {'dataset': 'isomorphic_strings', 'size': 5, 'held_out': 0});"
        "print([p.prompt_id for p in t.train_prompts()])"
    )

    def ids(seed: str) -> str:
        import os

        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout.decode()

    assert ids("1") == ids("2")


@pytest.mark.long
@pytest.mark.usefixtures("gym")
@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({}, "task.params.dataset"),
        ({"dataset": "chain_sums"}, "task.params.dataset"),
        ({"dataset": "composite"}, "task.params.dataset"),
        ({"dataset": "chain_sum", "config": {"min_term": 2}}, "task.params.config"),
        ({"dataset": "chain_sum", "config": {"seed": 2}}, "task.params.config.seed"),
        ({"dataset": "chain_sum", "size": 0}, "task.params.size"),
        ({"datasets": [{"name": "chain_sum"}, {"name": "chain_sum"}]}, "task.params.datasets"),
        ({"datasets": [{"name": "chain_sum", "weight": 0}]}, "task.params.datasets[0].weight"),
        ({"datasets": [{"name": "chain"}]}, "task.params.datasets[0].name"),
        ({"datasets": [{"name": "chain_sum", "config": {"min_terms": 9}}]}, "task.params.datasets[0].config"),
    ],
)
def test_parameters_that_are_refused(params: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task("reasoning_gym", params)
    assert caught.value.key == key
