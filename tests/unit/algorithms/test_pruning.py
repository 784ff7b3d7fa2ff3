"""The pruning allowance: carried over, never overdrawn, spent on the largest signals."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.pruning import PruningAllowance


def test_small_batches_get_their_share_in_the_end():
    allowance = PruningAllowance(0.05)
    pruned = [allowance.choose([1, 3, 3, 2], [True, True, True, False]).tolist() for _ in range(10)]
    assert [sum(batch) for batch in pruned] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert pruned[4] == [False, True, False, False]  # of two equal signals the first


def test_only_saturated_prompts_are_pruned():
    allowance = PruningAllowance(1.0)
    assert allowance.choose([9, 1], [False, True]).tolist() == [False, True]
    assert allowance.carried == 1


@settings(deadline=None)
@given(
    fraction=st.floats(0, 1),
    batches=st.lists(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), max_size=20), max_size=20),
)
def test_never_more_than_the_fraction_of_all_prompts(fraction: float, batches: list[list[tuple[float, bool]]]):
    allowance = PruningAllowance(fraction)
    prompts = pruned = 0
    for batch in batches:
        signals, saturated = [s for s, _ in batch], np.array([full for _, full in batch], dtype=bool)
        chosen = allowance.choose(signals, saturated)
        prompts += len(batch)
        pruned += int(chosen.sum())
        assert not np.any(chosen & ~saturated)
        assert pruned <= fraction * prompts + 1e-6
        rest = [s for s, full, taken in zip(signals, saturated, chosen, strict=True) if full and not taken]
        taken = [s for s, is_taken in zip(signals, chosen, strict=True) if is_taken]
        assert not rest or not taken or min(taken) >= max(rest)
        assert not rest or allowance.carried < 1
