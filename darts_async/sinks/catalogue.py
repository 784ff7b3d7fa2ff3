"""What every metric of a run means: of the names in `metrics.jsonl` and in heartbeats, kind and one sentence each.

A part in angle brackets stands for any word. Gauges go up and down; counters only grow while the run lasts. What a run
reports and this does not list is passed on as a gauge without a sentence of its own, and a test fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

__all__ = ["CATALOGUE", "Meaning", "meaning_of"]

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of one name, or of all names of a form."""

    pattern: str
    kind: Kind
    help: str
    name: str = ""
    """Beginning of its name elsewhere, where the form gives none that is clear."""


_TABLE: Final = """
policy_version              | gauge   | Policy version that the role works with.
loop_lag_p99_ms             | gauge   | How late the role's event loop wakes a timer, 99th percentile.
<role>/loop_lag_p99_ms      | gauge   | How late the role's event loop wakes a timer, 99th percentile.

learner/loss                | gauge   | Loss of the last step.
learner/grad_norm           | gauge   | Norm of the last step's gradient before clipping.
learner/lr                  | gauge   | Learning rate of the last step.
learner/tokens              | gauge   | Response tokens that the last step trained on.
learner/padded_tokens       | gauge   | Tokens that the last step computed, prompts and padding included.
learner/calls               | gauge   | Forward and backward passes of the last step.
learner/step_s              | gauge   | Length of the last step.
learner/wait_s              | gauge   | Time in the last step in which the learner waited for groups.
learner/forward_backward_s  | gauge   | Time in the last step spent in forward and backward passes.
learner/publish_ms          | gauge   | Time the last step took to publish its weights.
learner/idle_ratio          | gauge   | Share of the last step in which the learner waited.
learner/skipped_steps       | counter | Steps whose update was skipped: loss or gradient was not finite.
learner/clip_fraction       | gauge   | Share of loss tokens whose ratio was clipped.
learner/tis_capped_fraction | gauge   | Share of loss tokens whose importance weight was capped.
learner/masked_fraction     | gauge   | Share of response tokens that a correction left out.
learner/ratio_max           | gauge   | Largest importance ratio of a token in the last step.
learner/ess                 | gauge   | Effective sample size of the importance ratios, as a share.
learner/ess_corrected       | gauge   | Effective sample size after the correction, as a share.
learner/kl_reference        | gauge   | KL divergence to the reference policy, a token.
learner/entropy             | gauge   | Entropy of the policy, a token.
learner/logprob_diff_mean   | gauge   | Mean difference of the log-probs of engine and learner under one version.
learner/logprob_diff_max    | gauge   | Largest difference of the log-probs of engine and learner under one version.
learner/cached_share        | gauge   | Token streaming: share of tokens that were scored before their group was whole.
learner/score_ready_ms      | gauge   | Time from a whole group to its scores under the frozen policies, mean.
learner/chunk_tokens        | gauge   | Token streaming: tokens scored ahead in the last step.
learner/cache_mib           | gauge   | Token streaming: keys and values kept of unfinished responses.
learner/uncached_responses  | gauge   | Token streaming: responses of the last step that were not scored ahead.
learner/broken_streams      | gauge   | Token streaming: streams of the last step that had to be scored anew.
mismatch_kl                 | gauge   | KL estimate between the engine's and the learner's policy, a token.

generator/tokens_per_s      | gauge   | Tokens that the engine decodes in a second.
generator/running           | gauge   | Candidates that decode.
generator/held              | gauge   | Candidates that wait for a newer policy version.
generator/idle_ratio        | gauge   | Share of the time since the start in which nothing decoded.

queue/<queue>/depth         | gauge   | What waits in the queue.
allocator/live_groups       | gauge   | Groups dispatched and not over.
allocation/budget           | gauge   | Candidates sampled for a prompt, mean, as decided.
allocation/candidates_mean  | gauge   | Candidates sampled for a prompt, mean of the last batch.
allocation/clamped          | counter | Candidates that the bounds for a prompt took from the budget or added to it.
starvation/prompts          | gauge   | Prompts that have been dispatched and never trained on.
starvation/max              | gauge   | Most times that a prompt in a row was dispatched and not trained on.
selector/live_groups        | gauge   | Groups whose selection is not decided.
selector/unasked_cancels    | counter | Candidates that a generator ended as cancelled and nobody had asked it to.

reward/mean                 | gauge   | Mean reward of the finished candidates of the last step.
reward/kept                 | gauge   | Mean reward of the candidates that the last step trained on.
reward/rejected             | gauge   | Mean reward of the candidates that finished and were not kept.
reward/component/<component> | gauge  | Mean of one component of the reward, finished candidates of the last step.
response_length/generated   | gauge   | Mean length of the finished candidates of the last step, in tokens.
response_length/kept        | gauge   | Mean length of the candidates that the last step trained on, in tokens.
response_length/rejected    | gauge   | Mean length of the candidates that finished and were not kept, in tokens.
response_length/cancelled   | gauge   | Mean tokens of the cancelled candidates, when they were cancelled.
response_length/max         | gauge   | Length of the longest finished candidate of the last step, in tokens.
selection/rejected_groups   | gauge   | Groups of the last step that were given up.
selection/zero_variance_share | gauge | Share of groups whose picks all had one reward.
selection/rescued_share     | gauge   | Share of groups in which a pick was swapped for one with another reward.
selection/mixed_share       | gauge   | Share of groups with right and wrong answers.
selection/pattern_i_share   | gauge   | Share of mixed groups in which right answers are the shorter ones.
selection/pattern_ii_share  | gauge   | Share of mixed groups in which right answers are the longer ones.
selection/last_pick_wait_s  | gauge   | How long groups waited for the last of their picks, mean.
selection/last_pick_wait_max_s | gauge | How long a group waited for the last of its picks, the longest.
candidates/<candidates>     | gauge   | Groups of the last step with so many candidates sampled. | sampled_groups

staleness/mean              | gauge   | Versions between a token and the policy that trained on it, mean of the step.
staleness/max               | gauge   | Versions between a token and the policy that trained on it, largest of the step.
age/<age>/<figure>          | gauge   | By the age of tokens in versions: a figure of the step's tokens. | token_age
cancel/rollouts             | counter | Candidates cancelled in the engine.
cancel/rollouts_in_step     | gauge   | Candidates cancelled in the engine in the last step.
cancel/tokens_saved         | gauge   | Tokens that cancelled candidates would still have cost, an estimate.
cancel/tokens_saved_in_step | gauge   | Tokens that the cancels of the last step saved, an estimate.
cancel/latency_p99_ms       | gauge   | From the decision to cancel to the candidate's end, 99th percentile.
tokens/<state>              | counter | Response tokens of candidates that ended so.
failed/<reason>             | counter | Candidates that failed, by reason. | failed_rollouts

eval/version                | gauge   | Policy version that the held-out set was last scored at.
eval/reward                 | gauge   | Held-out reward.
eval/response_length        | gauge   | Mean length of the responses to the held-out set, in tokens.
eval/rollouts               | gauge   | Responses that the held-out scores are made of.

shadow/<pair>/<figure>      | gauge   | A figure of a loss and correction that are evaluated beside the ones in use.
link/<link>/dropped_frames  | counter | Messages that a link refused: too large, or not what it carries.
link/<link>/refused_peers   | counter | Peers that a link did not let in.
link/<link>/waiting_bytes   | gauge   | Bytes that arrived on a link and were not read yet.
sink/<sink>/waiting_lines   | gauge   | Lines of metrics that wait for the sink.
sink/<sink>/lost_lines      | counter | Lines of metrics that the sink did not get, or failed to take.

engine/num_requests_running | gauge   | vLLM: requests in execution.
engine/num_requests_waiting | gauge   | vLLM: requests that wait to be scheduled.
engine/kv_cache_usage_ratio | gauge   | vLLM: share of the KV cache that is in use.
engine/prefix_cache_hit_ratio | gauge | vLLM: share of the last prompts' tokens that the prefix cache had.
engine/prefix_cache_queries | counter | vLLM: prompt tokens looked up in the prefix cache.
engine/prefix_cache_hits    | counter | vLLM: prompt tokens found in the prefix cache.
engine/num_preemptions      | counter | vLLM: requests that lost their place in the KV cache and begin again.
engine/prompt_tokens        | counter | vLLM: prompt tokens, those found in the cache included.
engine/generation_tokens    | counter | vLLM: tokens sampled.
engine/time_to_first_token_mean_ms | gauge | vLLM: from a request's arrival to its first token, mean.
engine/time_to_first_token_p99_ms | gauge | vLLM: from a request's arrival to its first token, 99th percentile.
engine/inter_token_latency_mean_ms | gauge | vLLM: time between two tokens of a request, mean of the last ones.
engine/inter_token_latency_p99_ms | gauge | vLLM: time between two tokens of a request, 99th percentile.
engine/request_queue_time_mean_ms | gauge | vLLM: from a request's arrival to its being scheduled, mean.
engine/request_queue_time_p99_ms | gauge | vLLM: from arrival to being scheduled, 99th percentile.
"""


def _read(table: str) -> dict[str, Meaning]:
    found: dict[str, Meaning] = {}
    for line in filter(None, table.splitlines()):
        pattern, kind, text, *name = (part.strip() for part in line.split("|"))
        assert kind in {"gauge", "counter"}
        assert pattern not in found, pattern
        found[pattern] = Meaning(pattern, kind, text, *name)  # type: ignore[arg-type] # one of the two
    return found


CATALOGUE: Final = _read(_TABLE)
_FORMS: Final = tuple(
    (re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", pattern)), meaning)
    for pattern, meaning in CATALOGUE.items()
    if "<" in pattern
)


@lru_cache(maxsize=4096)
def meaning_of(name: str) -> tuple[Meaning | None, tuple[tuple[str, str], ...]]:
    """Return what a metric means, and what its placeholders stand for in it; None and nothing where nobody knows."""
    if name in CATALOGUE:
        return CATALOGUE[name], ()
    for form, meaning in _FORMS:
        if match := form.fullmatch(name):
            return meaning, tuple(match.groupdict().items())
    return None, ()
