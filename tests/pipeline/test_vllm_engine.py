"""The real engine, started once for all tests of this file, against transformers as the reference."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio

from actors.doctor import Doctor
from actors.evaluate import Evaluation
from darts_async.algorithms.seeding import rollout_seed
from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.engines import make_rollout_engine
from darts_async.engines.base import EngineOutput
from darts_async.engines.response import ResponseBuffer
from darts_async.engines.trainer import load_trainer
from darts_async.engines.vllm_engine import VllmEngine
from darts_async.errors import EngineDead, ProtocolError, RolloutError
from darts_async.launcher.token_checks import check_eos
from darts_async.messages import RolloutRequest, VersionSpan, check_spans
from darts_async.runtime.job_events import Check, HeldOutScores, JobEvent
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer
from darts_async.tasks.prompt_set import load_prompts

pytest.importorskip("vllm")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.torch,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

PROMPT_CAP, RESPONSE_CAP = 64, 256
TOOLS = str(Path(__file__).resolve().parents[2] / "tools")
EOS = json.loads((QUICKSTART_POLICY / "generation_config.json").read_text())["eos_token_id"]
VOCAB = json.loads((QUICKSTART_POLICY / "config.json").read_text())["vocab_size"]


@dataclass
class Served:
    """The engine and the weights it serves right now."""

    engine: VllmEngine
    folder: Path
    weights: Path = QUICKSTART_POLICY / "model.safetensors"

    async def swap(self, seed: int) -> Path:
        """Publish a perturbed copy as the next version; each seed is another policy."""
        path = self.perturbed(seed)
        await self.engine.update_weights(self.engine.version + 1, str(path))
        self.weights = path
        return path

    def perturbed(self, seed: int) -> Path:
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(QUICKSTART_POLICY / "model.safetensors")
        for tensor in tensors.values():
            tensor.mul_(1 + 0.1 * torch.randn(tensor.shape, generator=generator))
        path = self.folder / f"v{seed}.safetensors"
        save_file(tensors, path)
        return path

    def temperature(self, value: float) -> None:
        config = self.engine._config
        sampling = config.sampling.model_copy(update={"temperature": value})
        self.engine._config = config.model_copy(update={"sampling": sampling})

    def reference(self) -> torch.nn.Module:
        """The same weights in transformers, loaded afresh."""
        model = AutoModelForCausalLM.from_pretrained(QUICKSTART_POLICY, dtype=torch.float32)
        _, unexpected = model.load_state_dict(load_file(self.weights), strict=False)
        assert not unexpected
        model.tie_weights()
        return model.eval()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    config = Config.model_validate(
        {
            "model": {"max_prompt_tokens": PROMPT_CAP, "max_response_tokens": RESPONSE_CAP},
            # A small token budget: many prompts at once have to be spread over several engine steps.
            "generator": {"max_num_seqs": 64, "stream_interval": 4, "engine_args": {"max_num_batched_tokens": 512}},
        }
    )
    engine = make_rollout_engine(config, 0)
    assert isinstance(engine, VllmEngine)
    await engine.start()
    try:
        yield Served(engine, tmp_path_factory.mktemp("weights"))
    finally:
        await engine.close()


def make_request(
    candidate: int, *, cap: int = RESPONSE_CAP, prompt: list[int] | None = None, seed: int | None = None
) -> RolloutRequest:
    prompt = prompt or np.random.default_rng(candidate % 7).integers(3, VOCAB, 12).tolist()
    return RolloutRequest(
        candidate_id=candidate,
        prompt_tokens=np.asarray(prompt, np.int32),
        seed=(1 << 64) - 1 - (candidate if seed is None else seed),  # 64 bits, more than vLLM takes: it masks them
        max_response_tokens=cap,
        min_policy_version=0,
    )


@dataclass
class Response:
    tokens: list[int]
    logprobs: list[float]
    last: EngineOutput


async def collect(
    engine: VllmEngine, request: RolloutRequest, *, started: asyncio.Event | None = None, prefix: Sequence[int] = ()
) -> Response:
    tokens: list[int] = []
    logprobs: list[float] = []
    async for output in engine.generate(request, prefix):
        tokens += output.token_ids
        logprobs += output.logprobs
        if started is not None:
            started.set()
        last = output
    return Response(tokens, logprobs, last)


def nothing_left(engine: VllmEngine) -> bool:
    assert engine._llm is not None
    processor = engine._llm.output_processor
    return (engine.num_unfinished, len(processor.request_states), len(processor.external_req_ids)) == (0, 0, 0)


def reference_logprobs(
    model: torch.nn.Module, prompt: np.ndarray, tokens: list[int], temperature: float
) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt.tolist(), *tokens]])).logits[0, len(prompt) - 1 : -1]
    chosen = torch.log_softmax(logits.double() / temperature, -1)
    return chosen.gather(1, torch.tensor(tokens)[:, None])[:, 0]


def reference_greedy(model: torch.nn.Module, request: RolloutRequest) -> list[int]:
    prompt = torch.tensor(request.prompt_tokens[None].astype(np.int64))
    settings = {"max_new_tokens": request.max_response_tokens, "do_sample": False, "temperature": None}
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    return tokens[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_behaviour_logprobs_are_those_of_transformers(served: Served, temperature: float) -> None:
    served.temperature(temperature)
    requests = [make_request(1000 + i) for i in range(24)]
    responses = await asyncio.gather(*(collect(served.engine, request) for request in requests))
    model = served.reference()
    gaps = torch.cat(
        [
            (reference_logprobs(model, q.prompt_tokens, r.tokens, temperature) - torch.tensor(r.logprobs)).abs()
            for q, r in zip(requests, responses, strict=True)
        ]
    )
    assert gaps.numel() > 200
    assert gaps.mean() < 1e-4
    assert gaps.max() < 5e-3


# --- what `darts-async doctor` finds, faults planted around this one engine ---


def doctor_config(model: str = "quickstart", **sections: dict[str, object]) -> Config:
    limits = {"path": model, "max_prompt_tokens": PROMPT_CAP, "max_response_tokens": RESPONSE_CAP}
    return Config.model_validate({"model": limits, "generator": {"max_num_seqs": 64}, **sections})


async def examined(served: Served, config: Config, published: Path | None = None) -> dict[str, Check]:
    """The rows of the doctor's table for this config, asked of the engine as it is."""
    told: list[JobEvent] = []
    prompts = load_prompts(doctor_config()).held_out[:16]
    await Doctor(config, served.engine, told.append).examine(prompts, published)
    return {event.name: event for event in told if isinstance(event, Check)}


async def serve_the_quickstart(served: Served) -> None:
    served.weights = QUICKSTART_POLICY / "model.safetensors"
    await served.engine.update_weights(served.engine.version + 1, str(served.weights))


async def test_the_doctor_finds_nothing_wrong_with_the_quickstart(served: Served, tmp_path: Path) -> None:
    served.temperature(1.0)
    await serve_the_quickstart(served)
    before = served.engine.version
    checks = await examined(served, doctor_config(), tmp_path / "published.safetensors")
    assert {name: check.status for name, check in checks.items()} == {
        "sampled responses": "pass",
        "log-probs": "pass",
        "log-probs after a weight update": "pass",
    }
    assert served.engine.version == before + 1
    for name in ("log-probs", "log-probs after a weight update"):
        assert float(re.findall(r"mean \|difference\| (\S+)", checks[name].measured)[0]) < 1e-4
    assert nothing_left(served.engine)


@pytest.mark.parametrize(("engine", "learner"), [(0.7, 1.0), (1.0, 0.8)])
async def test_the_doctor_finds_another_temperature(served: Served, engine: float, learner: float) -> None:
    await serve_the_quickstart(served)
    served.temperature(engine)
    check = (await examined(served, doctor_config(sampling={"temperature": learner})))["log-probs"]
    served.temperature(1.0)
    assert check.status == "fail"
    words = f"temperature: the differences vanish when the learner uses {engine:.3g} in the place of "
    assert f"{words}sampling.temperature = {learner:g}" in check.remedy, check


async def test_the_doctor_finds_other_weights(served: Served, tmp_path: Path) -> None:
    served.temperature(1.0)
    await serve_the_quickstart(served)
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "policy"))
    shutil.copyfile(served.perturbed(501), folder / "model.safetensors")
    checks = await examined(served, doctor_config(str(folder)), tmp_path / "published.safetensors")
    assert checks["log-probs"].status == "fail"
    assert "other weights than the learner trains" in checks["log-probs"].remedy, checks["log-probs"]
    # The swap brings the learner's own weights to the engine: from then on they agree.
    assert checks["log-probs after a weight update"].status == "pass"


async def test_the_doctor_finds_another_end_of_responses(served: Served, tmp_path: Path) -> None:
    served.temperature(1.0)
    await serve_the_quickstart(served)
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "policy"))
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace('"eos_token": "<|endoftext|>"', '"eos_token": "<|pad|>"'))
    checks = await examined(served, doctor_config(str(folder)))
    assert checks["sampled responses"].status == "fail"
    assert f"end with token {EOS}, the model folder names 0" in checks["sampled responses"].measured
    assert checks["log-probs"].status == "pass"
    assert check_eos(ChatTokenizer(folder)).status == "fail"


async def test_an_evaluation_of_the_quickstart(served: Served) -> None:
    """Against the same samples, asked of the engine again and scored by the task itself."""
    served.temperature(1.0)
    await serve_the_quickstart(served)
    config = doctor_config(eval={"prompts": 24, "samples": 2})
    told: list[JobEvent] = []
    await Evaluation(config, served.engine, told.append).run(load_prompts(config).held_out)
    scores = told[-1]
    assert isinstance(scores, HeldOutScores)
    task, chat = load_task("chain_arithmetic", {}), ChatTokenizer(QUICKSTART_POLICY)
    requests = [
        RolloutRequest(
            candidate_id=1 + number,
            prompt_tokens=prompt.tokens,
            seed=rollout_seed(0, prompt.prompt_id, 1 + number),
            max_response_tokens=RESPONSE_CAP,
            min_policy_version=0,
        )
        for number, prompt in enumerate(prompt for prompt in load_prompts(config).held_out for _ in range(2))
    ]
    responses = await asyncio.gather(*(collect(served.engine, request) for request in requests))
    questions = task.held_out_prompts()
    rewards = [task.reward(questions[i // 2], chat.decode(r.tokens)) for i, r in enumerate(responses)]
    lengths = [len(response.tokens) for response in responses]
    assert scores.total.samples == 48 and scores.total.failed == 0
    # In another batch the last bits differ: a sample or two may take another turn.
    assert scores.total.pass_at_1 == pytest.approx(statistics.mean(rewards), abs=3 / 48)
    assert scores.total.response_length == pytest.approx(statistics.mean(lengths), rel=0.15)
    assert 0.1 < statistics.mean(rewards) < 0.9
    assert nothing_left(served.engine)


async def test_a_response_ends_with_eos_or_at_the_cap(served: Served) -> None:
    served.temperature(1.0)
    responses = await asyncio.gather(*(collect(served.engine, make_request(i, cap=24)) for i in range(60)))
    stopped = [r for r in responses if r.last.finish_reason == "stop"]
    capped = [r for r in responses if r.last.finish_reason == "length"]
    assert len(stopped) + len(capped) == 60
    assert stopped and capped
    assert all(r.tokens[-1] == EOS and EOS not in r.tokens[:-1] and len(r.tokens) <= 24 for r in stopped)
    assert all(len(r.tokens) == 24 and EOS not in r.tokens for r in capped)
    assert all(len(r.logprobs) == len(r.tokens) and max(r.logprobs) <= 0 for r in responses)
    assert all(r.last.version_spans == (VersionSpan(served.engine.version, 0),) for r in responses)
    assert nothing_left(served.engine)


async def test_the_same_seed_samples_the_same_response_alone_and_in_a_crowd(served: Served) -> None:
    served.temperature(1.0)
    alone = await collect(served.engine, make_request(7, cap=40))
    crowd = await asyncio.gather(*(collect(served.engine, make_request(i, cap=40)) for i in range(32)))
    assert crowd[7].tokens == alone.tokens
    assert len({tuple(r.tokens) for r in crowd}) > 20


async def test_a_swap_in_flight_changes_what_follows_and_the_spans_say_where(served: Served) -> None:
    served.temperature(1.0)
    drafts = await asyncio.gather(*(collect(served.engine, make_request(i)) for i in range(16)))
    longest = max(range(16), key=lambda i: len(drafts[i].tokens))
    plain = await collect(served.engine, make_request(longest))
    assert len(plain.tokens) > 50
    before = served.engine.version
    started = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(collect(served.engine, make_request(longest), started=started))
        await started.wait()
        await served.swap(101)
    swapped = task.result()
    assert served.engine.version == before + 1
    spans = swapped.last.version_spans
    check_spans(spans, len(swapped.tokens))
    assert [span.version for span in spans] == [before, before + 1]
    cut = spans[1].start
    assert 0 < cut < len(plain.tokens)
    assert swapped.tokens[:cut] == plain.tokens[:cut]
    assert np.allclose(swapped.logprobs[:cut], plain.logprobs[:cut], atol=1e-5)
    assert not np.allclose(swapped.logprobs[cut : cut + 3], plain.logprobs[cut : cut + 3], atol=1e-3)
    assert nothing_left(served.engine)


async def test_a_response_resumed_from_a_prefix_is_that_of_the_joined_sequence(served: Served) -> None:
    """Stop half-way, swap, go on: each part has the log-probs of the weights that sampled it, given all before it."""
    served.temperature(1.0)
    drafts = await asyncio.gather(*(collect(served.engine, make_request(i)) for i in range(16)))
    longest = max(range(16), key=lambda i: len(drafts[i].tokens))
    request, old = make_request(longest), served.reference()
    started, buffer = asyncio.Event(), ResponseBuffer()

    async def read(prefix: list[int]) -> None:
        async with contextlib.aclosing(served.engine.generate(request, prefix)) as outputs:
            async for output in outputs:
                buffer.extend(output)
                if buffer.num_tokens >= 20:
                    started.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(read([]))
        await started.wait()
        await served.engine.abort([longest])
    assert buffer.finish_reason == "abort"
    before = served.engine.version
    await served.swap(401)
    prefix = buffer.resume()
    assert prefix == drafts[longest].tokens[: len(prefix)]
    await read(prefix)
    trajectory = buffer.trajectory(longest, 0)
    tokens, logprobs = trajectory.response_tokens.tolist(), torch.tensor(trajectory.behaviour_logprobs.copy())
    cut = len(prefix)
    assert trajectory.version_spans == (VersionSpan(before, 0), VersionSpan(before + 1, cut))
    assert 20 <= cut < len(tokens) <= RESPONSE_CAP
    assert (tokens[-1] == EOS) == (trajectory.finish_reason == "stop")
    under_old = reference_logprobs(old, request.prompt_tokens, tokens, 1.0)
    under_new = reference_logprobs(served.reference(), request.prompt_tokens, tokens, 1.0)
    assert (under_old[:cut] - logprobs[:cut]).abs().max() < 5e-3
    assert (under_new[cut:] - logprobs[cut:]).abs().max() < 5e-3
    assert (under_old[cut:] - logprobs[cut:]).abs().max() > 5e-2  # the two can be told apart
    # What is left of the cap is all that may come.
    capped = make_request(longest, cap=cut + 3)
    rest = await collect(served.engine, capped, prefix=prefix)
    assert len(rest.tokens) <= 3
    with pytest.raises(RolloutError, match="nothing is left"):
        await collect(served.engine, make_request(longest, cap=cut), prefix=prefix)
    assert nothing_left(served.engine)


async def test_after_the_last_swap_the_engine_is_the_file_loaded_afresh(served: Served) -> None:
    untouched = served.reference()
    for seed in (201, 202, 203):
        await served.swap(seed)
    model = served.reference()
    requests = [make_request(candidate, cap=32) for candidate in range(5)]
    served.temperature(0.0)
    greedy = await asyncio.gather(*(collect(served.engine, request) for request in requests))
    assert [response.tokens for response in greedy] == [reference_greedy(model, request) for request in requests]
    assert [response.tokens for response in greedy] != [reference_greedy(untouched, request) for request in requests]
    assert all(response.last.version_spans == (VersionSpan(served.engine.version, 0),) for response in greedy)
    # Greedy tokens can agree by luck. Log-probs cannot: a tied output layer left behind is off by 0.5 here.
    served.temperature(1.0)
    for request in requests:
        response = await collect(served.engine, request)
        expected = reference_logprobs(model, request.prompt_tokens, response.tokens, 1.0)
        assert (expected - torch.tensor(response.logprobs)).abs().max() < 5e-3


async def test_what_the_learner_publishes_is_what_its_checkpoint_holds(served: Served, tmp_path: Path) -> None:
    """Publish, swap, decode greedily; then load the checkpoint as a user would: the answers are the same."""
    trainer = load_trainer(Config())
    with torch.no_grad():
        for parameter in trainer._model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    published = tmp_path / "published.safetensors"
    trainer.publish(published)
    trainer.save_checkpoint(tmp_path / "checkpoint")
    await served.engine.update_weights(served.engine.version + 1, str(published))
    served.weights = published
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    requests = [make_request(candidate, cap=48) for candidate in range(8)]
    served.temperature(0.0)
    greedy = await asyncio.gather(*(collect(served.engine, request) for request in requests))
    served.temperature(1.0)
    assert [response.tokens for response in greedy] == [reference_greedy(model, request) for request in requests]


async def test_an_adapter_alone_is_sent_and_what_is_served_is_the_learners_policy(
    served: Served, tmp_path: Path
) -> None:
    """Twice, over the leftovers of other weights; as close as full weights are; a request in flight goes on."""
    served.temperature(1.0)
    trainer = load_trainer(Config.model_validate({"learner": {"lora_rank": 8}}))
    draw = torch.Generator().manual_seed(11)
    base = AutoModelForCausalLM.from_pretrained(QUICKSTART_POLICY, dtype=torch.float32).eval()
    await served.swap(601)
    longest = make_request(1, cap=RESPONSE_CAP)
    for number in range(2):
        with torch.no_grad():
            for parameter in trainer._model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.07 * torch.randn(parameter.shape, generator=draw))
        published = tmp_path / f"v{number}.safetensors"
        trainer.publish(published)
        assert 3 * published.stat().st_size < (QUICKSTART_POLICY / "model.safetensors").stat().st_size
        started, before = asyncio.Event(), served.engine.version
        async with asyncio.TaskGroup() as group:
            task = group.create_task(collect(served.engine, longest, started=started))
            await started.wait()
            await served.engine.update_weights(before + 1, str(published))
        check_spans(task.result().last.version_spans, len(task.result().tokens))
        assert {span.version for span in task.result().last.version_spans} <= {before, before + 1}
        trainer.save_checkpoint(tmp_path / f"step_{number}")
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / f"step_{number}", dtype=torch.float32).eval()
        requests = [make_request(2000 + i, cap=64) for i in range(12)]
        responses = await asyncio.gather(*(collect(served.engine, request) for request in requests))
        for model, close in ((trainer._model, True), (exported, True), (base, False)):
            gaps = torch.cat(
                [
                    (reference_logprobs(model, q.prompt_tokens, r.tokens, 1.0) - torch.tensor(r.logprobs)).abs()
                    for q, r in zip(requests, responses, strict=True)
                ]
            )
            assert gaps.numel() > 100
            assert (gaps.mean() < 1e-4 and gaps.max() < 5e-3) if close else gaps.mean() > 5e-2
    # An adapter of other base weights is refused, and what was served goes on.
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "policy"))
    shutil.copyfile(served.perturbed(602), folder / "model.safetensors")
    other = {"model": {"path": str(folder)}, "learner": {"lora_rank": 8}}
    load_trainer(Config.model_validate(other)).publish(tmp_path / "other.safetensors")
    version = served.engine.version
    with pytest.raises(ProtocolError, match="another base model"):
        await served.engine.update_weights(version + 1, str(tmp_path / "other.safetensors"))
    again = await collect(served.engine, requests[0])
    assert (again.tokens, served.engine.version) == (responses[0].tokens, version)
    await serve_the_quickstart(served)


async def test_more_prompts_than_fit_into_one_step_do_not_kill_the_engine(served: Served) -> None:
    """A seeded request that is prefilled in parts ends the engine on a CPU; partial rollouts have such long prompts."""
    served.temperature(1.0)
    prefix = [5] * 200
    requests = [make_request(500 + number, cap=256) for number in range(12)]
    streams = [served.engine.generate(request, prefix) for request in requests]

    async def first_output(stream: AsyncIterator[EngineOutput]) -> int:
        async for output in stream:
            return len(output.token_ids)
        return 0

    firsts = await asyncio.gather(*(first_output(stream) for stream in streams))
    await served.engine.abort([request.candidate_id for request in requests])
    for stream in streams:
        await stream.aclose()
    assert all(count > 0 for count in firsts)


async def test_old_versions_and_repeats_are_ignored(served: Served) -> None:
    path = await served.swap(301)
    version = served.engine.version
    await served.engine.update_weights(version, str(path))
    await served.engine.update_weights(version - 1, "/nowhere")
    assert served.engine.version == version


async def test_a_file_that_cannot_be_used_is_refused_and_the_old_weights_go_on(served: Served, tmp_path: Path) -> None:
    served.temperature(0.0)
    version = served.engine.version
    before = await collect(served.engine, make_request(1, cap=16))
    good = load_file(QUICKSTART_POLICY / "model.safetensors")
    bad = {
        "cannot read": tmp_path / "missing.safetensors",
        "1 missing": tmp_path / "short.safetensors",
        "1 unknown": tmp_path / "long.safetensors",
        "has shape": tmp_path / "shape.safetensors",
        "cut off": tmp_path / "cut.safetensors",
    }
    name = "model.norm.weight"
    save_file({k: v for k, v in good.items() if k != name}, bad["1 missing"])
    save_file({**good, "model.extra.weight": torch.zeros(2)}, bad["1 unknown"])
    save_file({**good, name: torch.zeros(2)}, bad["has shape"])
    bad["cut off"].write_bytes((QUICKSTART_POLICY / "model.safetensors").read_bytes()[:-4])
    for words, path in bad.items():
        with pytest.raises(ProtocolError, match=words):
            await served.engine.update_weights(version + 1, str(path))
    assert served.engine.version == version
    assert served.engine._llm is not None
    assert not await served.engine._llm.is_paused()
    after = await collect(served.engine, make_request(1, cap=16))
    assert after.tokens == before.tokens


async def test_abort_returns_at_once_and_keeps_the_tokens_so_far(served: Served) -> None:
    served.temperature(1.0)
    latencies_ms = []
    for candidate in range(500, 520):
        started = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(collect(served.engine, make_request(candidate * 50 + i))) for i in range(8)]
            task = group.create_task(collect(served.engine, make_request(candidate, prompt=[5, 6, 7]), started=started))
            await started.wait()
            began = time.perf_counter()
            await served.engine.abort([candidate, 999_999])
            latencies_ms.append((time.perf_counter() - began) * 1e3)
            await served.engine.abort([candidate * 50 + i for i in range(8)])
        response = task.result()
        assert response.last.finish_reason == "abort" or response.tokens[-1] == EOS
        assert 1 <= len(response.tokens) == len(response.logprobs)
        check_spans(response.last.version_spans, len(response.tokens))
        assert all(other.result().last.finish_reason in {"abort", "stop"} for other in others)
    assert statistics.median(latencies_ms) < 50
    assert nothing_left(served.engine)


async def test_aborts_and_cancels_at_any_moment_leave_nothing_behind(served: Served) -> None:
    served.temperature(1.0)
    chance = random.Random(0)
    ended: list[str | None] = []

    async def one(candidate: int) -> None:
        task = asyncio.create_task(collect(served.engine, make_request(candidate, cap=64)))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        kind = chance.choice(["abort", "abort twice", "cancel", "both"])
        if "abort" in kind or kind == "both":
            await served.engine.abort([candidate])
        if kind == "abort twice":
            await served.engine.abort([candidate, candidate])
        if kind in {"cancel", "both"}:
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Response):
            ended.append(result.last.finish_reason)
        else:
            assert isinstance(result, asyncio.CancelledError)

    await asyncio.gather(*(one(candidate) for candidate in range(10_000, 10_200)))
    assert ended.count("abort") > 20
    assert nothing_left(served.engine)
    # The engine process has forgotten them too: it serves the next request at once, with nothing else running.
    assert (await collect(served.engine, make_request(3, cap=4))).last.finish_reason in {"length", "stop"}


async def test_the_soak_of_cancels_in_small(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of what `make soak` does for longer; too few cancels to judge memory by."""
    monkeypatch.syspath_prepend(TOOLS)
    from soaks.cancels import KINDS, MOMENTS, soak_cancels

    prompts = [np.arange(5, 5 + size, dtype=np.int32) for size in range(4, 12)]
    soak = await soak_cancels(served.engine, prompts, cancels=1000, in_flight=64, first_candidate=5_000_000)
    assert soak.cancels >= 1000 and soak.refused > 0
    assert set(soak.by_kind) == {f"{kind} {moment}" for kind in KINDS for moment in MOMENTS}
    assert soak.left and not any(soak.left.values())
    assert all(size > 50 << 20 for _, sizes in soak.memory.samples for size in sizes.values())


async def test_a_request_that_does_not_fit_fails_alone(served: Served) -> None:
    served.temperature(1.0)
    too_long = make_request(1, prompt=[5] * (PROMPT_CAP + 1))
    unknown_token = make_request(2, prompt=[VOCAB + 5])
    fine = make_request(3, cap=8)
    results = await asyncio.gather(
        *(collect(served.engine, request) for request in (too_long, unknown_token, fine)), return_exceptions=True
    )
    assert isinstance(results[0], RolloutError)
    assert "max_prompt_tokens" in str(results[0])
    assert isinstance(results[1], RolloutError)
    assert isinstance(results[2], Response)
    assert nothing_left(served.engine)


async def test_when_the_engine_process_is_killed_everybody_is_told(served: Served) -> None:
    """Keep this the last test of the file: the engine is gone afterwards."""
    served.temperature(1.0)
    (core,) = (p for p in psutil.Process().children(recursive=True) if "EngineCore" in p.name())
    started = asyncio.Event()
    reading = asyncio.create_task(collect(served.engine, make_request(1, prompt=[5, 6, 7]), started=started))
    watching = asyncio.create_task(served.engine.wait_dead())
    await started.wait()
    core.kill()
    (result,) = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(result, EngineDead | Response)
    await asyncio.wait_for(watching, 10)
    with pytest.raises(EngineDead):
        await collect(served.engine, make_request(2))
    with pytest.raises(EngineDead):
        await served.engine.update_weights(served.engine.version + 1, str(served.weights))
    assert served.engine.num_unfinished == 0
