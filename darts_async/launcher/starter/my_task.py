"""My task: the prompts that a run trains on, and what a response is worth. `my_run.toml` names what is in here.

It runs as it is, with the tiny policy that ships with darts-async. That policy has learned one thing, chains of sums
such as a4b+3c-5, and writes its answer behind "####". For a model of your own, write prompts of your own below.
"""

import random
import re


class MyTask:
    """The prompts. Whatever `[task.params]` in my_run.toml holds is handed to `__init__` by name."""

    def __init__(self, num_prompts=64, longest=8):
        rng = random.Random(0)  # the same prompts every time: every process of a run asks for them
        found = {}
        while len(found) < 2 * num_prompts:
            problem = chain(rng, longest)
            found[problem["prompt"]] = problem
        self.train = list(found.values())[:num_prompts]
        self.held_out = list(found.values())[num_prompts:]

    def train_prompts(self):
        """Return the prompts to train on: "prompt" is what the model is asked, "answer" what the rewards compare with.

        Further columns are there for the rewards, as `prompt.extra["name"]`.
        """
        return self.train

    def held_out_prompts(self):
        """Return the prompts of the evaluation, before and after. Without this method some of the others are taken."""
        return self.held_out


def correct(prompt, response):
    """Return 1 for the right answer, else 0. Every reward gets the prompt and the text of a response."""
    answers = re.findall(r"#### *(-?\d+)", response)
    return 1.0 if answers and answers[-1] == prompt.answer else 0.0


def brief(prompt, response):
    """Return 1 for an empty response, less the longer it is. (`response.num_tokens` is its length in tokens.)"""
    return 1.0 / (1.0 + len(response) / 100)


def chain(rng, longest):
    """Draw one problem: a start value and labelled steps; every total on the way lies in 0..9."""
    total = rng.randrange(10)
    text = f"a{total}"
    for label in "bcdefgh"[: rng.randrange(1, longest)]:
        step = rng.choice([step for step in range(-total, 10 - total) if step != 0])
        total += step
        text += f"{label}{step:+d}"
    return {"prompt": text, "answer": str(total)}
