"""An evaluation with real reward workers: what is scored is averaged over prompts, what fails is counted."""

from __future__ import annotations

from collections.abc import Sequence

from actors.evaluate import Evaluation
from darts_async.config import load_config
from darts_async.config.paths import model_folder
from darts_async.engines.base import EngineOutput
from darts_async.engines.sim_engine import SimEngine
from darts_async.messages import RolloutRequest, VersionSpan
from darts_async.runtime.job_events import HeldOutScores, JobEvent, Progressed
from darts_async.tasks import load_task
from darts_async.tasks.prompt_set import load_prompts


class _Knowing(SimEngine):
    """Answers what it is told to."""

    def __init__(self, config, answers: dict[bytes, list[int]]) -> None:
        super().__init__(config, 0)
        self._answers = answers

    async def generate(self, request: RolloutRequest, prefix: Sequence[int] = ()):
        tokens = self._answers[request.prompt_tokens.tobytes()]
        yield EngineOutput(tokens, [-1.0] * len(tokens), "stop", (VersionSpan(0, 0),))


async def _run(config, engine) -> tuple[HeldOutScores, list[JobEvent]]:
    told: list[JobEvent] = []
    await engine.start()
    try:
        await Evaluation(config, engine, told.append).run(load_prompts(config).held_out)
    finally:
        await engine.close()
    assert isinstance(told[-1], HeldOutScores)
    return told[-1], told


async def test_right_answers_are_counted_per_prompt():
    from tokenizers import Tokenizer

    config = load_config(None, [("generator.engine", "sim"), ("eval.prompts", "8"), ("eval.samples", "2")])
    tokenizer = Tokenizer.from_file(str(model_folder(config) / "tokenizer.json"))
    task = load_task(config.task.name, config.task.params)
    answers = {}
    for index, (prompt, tokens) in enumerate(zip(task.held_out_prompts(), load_prompts(config).held_out, strict=False)):
        text = f"####{prompt.answer}" if index % 2 else "nothing"
        answers[tokens.tokens.tobytes()] = [*tokenizer.encode(text, add_special_tokens=False).ids, 1]
        assert task.reward(prompt, text) == index % 2
    scores, told = await _run(config, _Knowing(config, answers))
    assert (scores.total.pass_at_1, scores.total.samples, scores.total.failed) == (0.5, 16, 0)
    assert scores.total.response_length == sum(map(len, answers.values())) / 8
    assert scores.total.capped_share == 0
    progress = [(event.done, event.total) for event in told if isinstance(event, Progressed)]
    assert progress == [(done, 16) for done in range(17)]


async def test_failures_are_left_out_and_the_first_is_told():
    config = load_config(
        None,
        [
            ("generator.engine", "sim"),
            ("generator.engine_args.token_s", "0.0001"),
            ("generator.engine_args.fail_share", "0.5"),
            ("eval.prompts", "8"),
            ("eval.samples", "2"),
        ],
    )
    scores, _ = await _run(config, SimEngine(config, 0))
    assert 0 < scores.total.failed < 16 and scores.total.samples + scores.total.failed == 16
    assert scores.first_failure == "failed on purpose (fail_share)"
