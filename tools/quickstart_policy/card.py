"""The model card: the measured table and, said plainly, what the policy is not."""

from __future__ import annotations

from quickstart_policy.measure import Measurement

__all__ = ["model_card"]

TEXT = """\
# The quickstart policy

A causal language model of {parameters:.3f} M parameters (Qwen3 architecture, float32) that adds and
subtracts one-digit numbers. It exists so that `darts-async up` has something real to train on a machine
without a GPU. It was trained from random weights on {tokens:.1f} M tokens of generated demonstrations; no
text or weights of others went in.

Made by `python tools/make_quickstart_policy.py --seed {seed}` in {training_s:.0f} s on two CPU cores.

## Task

The prompt lists a start value and labelled steps (`a4b+3c-5d+8`); each running total lies in 0..9. The
response works through the steps and ends with `####` and the total. The number of operands, 2 to 8, is the
difficulty.

## Measured

{prompts} held-out prompts, {samples} samples each at temperature 1 with full support, at most {max_tokens}
tokens a response. Greedily decoded, {greedy:.1%} of the answers are right. Prompts have at most
{longest_prompt} tokens.

{table}

- *n*: prompts; *right*: share of right answers; *mean, p50, p90, p99*: response length in tokens, the end-of-text token
  included; *capped*: share that reached the cap; *right/wrong*: mean length of right and of wrong responses.
- *max/mean*: longest of a prompt's {samples} responses over their mean, median over the prompts.
- *I/II*: prompts whose right responses are shorter (Pattern I) or longer (Pattern II) than their wrong
  ones.

## Limits

- The errors were put in by the teacher. Decoded greedily the policy is nearly always right, so a gain in
  reinforcement learning shows that the loop learns; it does not show that reasoning improves.
- The long tail was put in as well, by the same teacher: it wanders on easy problems and checks itself
  needlessly on hard ones. It shrinks as the policy learns. A throughput comparison needs a low learning
  rate, or the tail is gone before it has been measured.
- No demonstration contains a held-out prompt. But there are only 90 problems with two operands and 810 with
  three; demonstrations have shown nearly all of those that training may use.
- It can do nothing else. Anything that is not such a prompt yields noise.
"""


def model_card(measured: Measurement, *, parameters: int, tokens: int, seed: int, training_s: float) -> str:
    """The text of MODEL_CARD.md."""
    header, rows = measured.cells()
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return TEXT.format(
        parameters=parameters / 1e6,
        tokens=tokens / 1e6,
        seed=seed,
        training_s=training_s,
        prompts=measured.overall.prompts,
        samples=measured.samples,
        max_tokens=measured.max_tokens,
        greedy=measured.accuracy_greedy,
        longest_prompt=measured.longest_prompt,
        table="\n".join("| " + " | ".join(line) + " |" for line in lines),
    )
