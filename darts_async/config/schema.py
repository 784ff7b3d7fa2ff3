"""The schema of a run: one class a TOML section, one field a knob, one meaning a knob.

The text under a field is its documentation (`configs/README.md` lists the same); units are in the names. Rules that
tie fields together are in `rules.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

PipelineMode = Literal["sync", "stream", "one_step_off", "async"]
MODE_ETA: dict[PipelineMode, int] = {"sync": 0, "stream": 0, "one_step_off": 1, "async": 1}
"""The staleness bound that each mode implies; `async` may be given a larger one."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not coerced across types, documents are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class RunSection(Section):
    """[run]: what the run is called, where it goes, how long it is."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    """Folder name of the run under `dir`. Empty: the config's name and the date and time."""
    dir: str = "runs"
    """Parent folder of run folders; made when missing."""
    steps: PositiveInt = 40
    """Learner steps (optimiser updates, policy versions) to train."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds the prompt order, every sampler and the survivor draw."""


class ModelSection(Section):
    """[model]: the policy."""

    path: Annotated[str, Field(min_length=1)] = "quickstart"
    """Folder in Hugging Face format, or `quickstart` for the tiny policy that ships with the package."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the engine's and the learner's weights."""
    max_prompt_tokens: PositiveInt = 64
    """Longer prompts are skipped and counted (tokens, chat template included)."""
    max_response_tokens: Annotated[int, Field(ge=2)] = 512
    """The cap: a hard limit on a response (tokens, EOS included)."""


class TaskSection(Section):
    """[task]: prompts and their verifier."""

    name: Annotated[str, Field(min_length=1)] = "chain_arithmetic"
    """Name in the registry of tasks."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the task, as its documentation lists them."""


class SamplingSection(Section):
    """[sampling]: how responses are drawn. Full support only: the importance ratios need it."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Softmax temperature; the learner's log-probs use the same."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Must be 1: truncated sampling would need a correction of the behaviour log-probs."""
    top_k: Annotated[int, Field(ge=-1)] = -1
    """Must be -1 (off), for the same reason."""


class GroupSection(Section):
    """[group]: what one gradient is made of."""

    size: Annotated[int, Field(ge=2, le=256)] = 8
    """n: candidates per prompt that are trained on."""
    keep_longest: Annotated[int, Field(ge=0)] = 1
    """L: how many of the n come from the long end (`survivor`); K = n - L from the short end."""
    groups_per_step: PositiveInt = 8
    """Groups per learner step."""


class SelectionSection(Section):
    """[selection]: which of the sampled candidates are trained on."""

    rule: Literal["all", "first_finished", "shortest", "dual_end", "survivor"] = "survivor"
    """`all`: every candidate (plain GRPO, budget = size). `first_finished`: the first n to finish, in time. `shortest`:
    the n shortest, the rest cancelled once certain. `dual_end`: the n - L shortest and the L longest (the paper).
    `survivor`: the n - L shortest and L drawn from the others."""
    baseline: Literal["selected", "finished"] = "selected"
    """What the advantage's mean is taken over: the kept candidates, or all that finished."""
    zero_variance: Literal["keep", "drop", "rescue"] = "keep"
    """Groups whose kept rewards are all equal carry no gradient. `keep`: their tokens count in the loss. `drop`: they
    are not trained, another group is dispatched. `rescue`: the longest pick of the short end is swapped for the
    shortest finished candidate with another reward, if there is one."""


class AllocationSection(Section):
    """[allocation]: how many candidates are sampled for a prompt."""

    budget: Annotated[float, Field(ge=1)] | Literal["auto"] | None = None
    """Mean number of candidates per prompt, or `auto`: where the expected shortening is worth the expected time.
    Unset: 1.5 times the group size (the group size under rule `all`)."""
    min: PositiveInt | None = None
    """M_low: fewest candidates for a prompt. Unset: the group size."""
    max: PositiveInt | None = None
    """M_up: most candidates for a prompt. Unset: twice the group size."""

    signal: Literal["std", "mean", "max", "mean_2std", "uniform"] = "uniform"
    """What a prompt's share of the budget follows: the spread of its response lengths (`std`, the paper), their
    `mean`, `max`, or mean plus two deviations (`mean_2std`); `uniform`: the same number for every prompt."""
    ema: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Weight of a group's lengths in its prompt's running statistics."""
    cost_weight: Annotated[float, Field(ge=0)] = 0.6
    """lambda of `budget = "auto"`: a relative lengthening of the rollout weighs so much against an equal relative
    shortening of the kept responses (no unit; larger: fewer candidates)."""
    prune_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the prompts whose tails are pruned: of those at `max`, the ones with the largest signal use `shortest`
    in the place of `dual_end`. What is not used carries over."""


class RewardSection(Section):
    """[reward]: the process pool that scores responses."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker processes."""
    timeout_s: Seconds = 10.0
    """Longest time one score may take; then the candidate counts as failed and its worker is replaced."""


class QueuesSection(Section):
    """[queues]: the depths one tunes for throughput."""

    in_flight_groups: PositiveInt = 16
    """Most groups that are dispatched and not yet complete: what the generators work on."""
    ready_groups: PositiveInt = 16
    """Most complete groups that wait for the learner (high-water mark of the groups link)."""
    oversample_groups: Annotated[int, Field(ge=0)] = 0
    """Groups admitted beyond what the next steps need; `pipeline.unfinished` says what becomes of them. With `keep` the
    slowest of a version can grow too old and are swept: their tokens are lost, and slow prompts are trained less."""
    trajectory_hwm: Annotated[int, Field(ge=16)] = 4096
    """Most messages that wait between a generator and the selector."""


class PipelineSection(Section):
    """[pipeline]: how far rollout may run ahead of training."""

    mode: PipelineMode = "async"
    """`sync`: whole batches. `stream`: gradients as groups arrive. `one_step_off`: the next batch decodes while this
    one trains, and a replica swaps its weights only when nothing decodes, so that a response is of one version.
    `async`: weights are swapped in flight."""
    max_staleness: Annotated[int, Field(ge=0, le=64)] | None = None
    """eta: most versions between the oldest token of a group and the policy that trains on it. Unset: what the mode
    implies (0, 0, 1, 1). Setting another value than the mode's is an error; `async` takes 1 and more."""

    unfinished: Literal["keep", "defer", "resume"] = "keep"
    """What happens to groups that still decode when a step has all the groups it needs. `keep`: they go on and are
    trained by a later step. `defer`: they are cancelled and their prompts wait for a long round of their own (tail
    batching; modes `sync` and `stream`). `resume`: their candidates stop, keep their tokens, and go on under the next
    version (partial rollout; modes `one_step_off` and `async`). Both need `queues.oversample_groups`."""


class GeneratorSection(Section):
    """[generator]: the inference engines."""

    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """Generator processes; each owns one engine."""
    engine: Literal["vllm", "sim"] = "vllm"
    """`vllm`, or `sim`: a deterministic stand-in that samples lengths from a distribution (tests, simulation)."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Most candidates that decode at once in one engine; also the replica's credits."""
    stream_interval: PositiveInt = 4
    """Tokens between two progress reports of a candidate. Smaller: earlier cancels, more messages."""
    cpu_threads: PositiveInt = 1
    """Compute threads of an engine on a CPU."""
    cpu_kvcache_gib: PositiveInt = 1
    """Memory for the KV cache of an engine on a CPU, in GiB."""
    update_timeout_s: Seconds = 60.0
    """Longest time each phase of a weight swap may take before the run fails with the phase's name."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Passed on to vLLM's `AsyncEngineArgs` (for example `gpu_memory_utilization`, `tensor_parallel_size`)."""


class LearnerSection(Section):
    """[learner]: the update."""

    lr: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """Learning rate of AdamW (0 checks the pipeline without learning)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly from 0; constant afterwards."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    loss: Literal["ppo_clip"] = "ppo_clip"
    """Name in the registry of losses."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Ratios below 1 - clip_low get no gradient for negative advantages."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """Ratios above 1 + clip_high get no gradient for positive advantages (clip-higher)."""
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """Name in the registry of advantages: mean and std, mean only, leave-one-out."""
    correction: Literal["none", "tis"] = "tis"
    """Off-policy correction: none, or token-level truncated importance sampling."""
    tis_cap: Annotated[float, Field(ge=1)] = 2.0
    """Cap of the truncated importance weight."""
    mask_truncated: bool = False
    """Leave responses that hit the cap out of the loss."""
    micro_batch_tokens: Annotated[int, Field(ge=16)] = 8192
    """Padded tokens per forward and backward pass."""
    max_bad_steps: PositiveInt = 3
    """The run fails after this many steps in a row whose loss or gradient is not finite (each is skipped)."""
    threads: PositiveInt = 1
    """Compute threads of the learner on a CPU."""


class CheckpointSection(Section):
    """[checkpoint]: Hugging Face folders under `checkpoints/step_<N>`. One is always written at the end."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    """Also write one every so many steps; 0: only at the end."""
    keep: PositiveInt = 2
    """How many of the periodic ones to keep."""


class EvalSection(Section):
    """[eval]: the held-out set, sampled before the first and after the last step; nothing is cancelled."""

    prompts: Annotated[int, Field(ge=0)] = 128
    """Held-out prompts used; 0 turns evaluation off."""
    samples: PositiveInt = 2
    """Samples per prompt."""


class LaunchSection(Section):
    """[launch]: processes and sockets."""

    bind: str = "ipc"
    """`ipc` (sockets in a private temporary folder), or `tcp://HOST:PORT` for PORT and the seven ports above it."""
    max_restarts: Annotated[int, Field(ge=0, le=0)] = 0
    """Restarts per role. Only 0 so far: a role that dies ends the run."""
    ready_timeout_s: Seconds = 300.0
    """Longest time from start until every role is ready; the error names who is missing."""
    drain_timeout_s: Seconds = 8.0
    """Longest time the roles get to drain when the run ends or is interrupted; then they are killed."""


class Config(Section):
    """A whole run."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    task: TaskSection = TaskSection()
    sampling: SamplingSection = SamplingSection()
    group: GroupSection = GroupSection()
    selection: SelectionSection = SelectionSection()
    allocation: AllocationSection = AllocationSection()
    reward: RewardSection = RewardSection()
    queues: QueuesSection = QueuesSection()
    pipeline: PipelineSection = PipelineSection()
    generator: GeneratorSection = GeneratorSection()
    learner: LearnerSection = LearnerSection()
    checkpoint: CheckpointSection = CheckpointSection()
    eval: EvalSection = EvalSection()
    launch: LaunchSection = LaunchSection()
