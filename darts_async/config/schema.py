"""The schema of a run: one class a TOML section, one field a knob, one meaning a knob.

The text under a field is its documentation (`configs/README.md` lists the same); units are in the names. Rules that
tie fields together are in `rules.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Devices = Annotated[list[Annotated[int, Field(ge=0, le=1023)]], Field(max_length=8192)]

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

    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,99})?$")] = ""
    """Folder name of the run under `dir`; begins with no dot. Empty: the config's name and the date and time."""
    dir: str = "runs"
    """Parent folder of run folders; made when missing."""
    steps: PositiveInt = 40
    """Learner steps (policy versions) to train."""
    max_wall_s: Annotated[float, Field(gt=0)] | None = None
    """Training ends with the step in which it has taken this many seconds, counted from when all roles are ready (the
    evaluation before the first step included). What still decodes is cancelled. Unset: no limit."""
    max_trained_tokens: PositiveInt | None = None
    """Training ends with the step that brings the response tokens trained on to this number. What still decodes is
    cancelled. Unset: no limit."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds the prompt order, every sampler and the survivor draw."""


class ModelSection(Section):
    """[model]: the policy."""

    path: Annotated[str, Field(min_length=1)] = "quickstart"
    """Folder in Hugging Face format, or `quickstart` for the tiny policy that ships with the package."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the engine's and the learner's weights."""
    chat_template: str = ""
    """How a prompt becomes the text that the model sees. Empty: the folder's own chat template. Else a file with a
    Jinja template in the form that Hugging Face tokenizers use, or `plain`: the prompt as it is, for base models.
    Checkpoints carry it."""
    max_prompt_tokens: PositiveInt = 64
    """Longer prompts are skipped and counted (tokens, chat template included)."""
    max_response_tokens: Annotated[int, Field(ge=2)] = 512
    """The cap: a hard limit on a response (tokens, EOS included)."""


class TaskSection(Section):
    """[task]: prompts and their verifier."""

    name: Annotated[str, Field(min_length=1)] = "chain_arithmetic"
    """`chain_arithmetic` (the quickstart's), `reasoning_gym` (its procedural data sets and their verifiers), `jsonl`,
    `parquet` or `dataset` (rows of yours: files, or a Hugging Face data set on disk), or a class or function of yours:
    `package.module:Task` or `path/to/file.py:Task`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the task, as listed below the tables; your own class or function gets them by name."""


class SamplingSection(Section):
    """[sampling]: how responses are drawn. From the full support, which the importance ratios need."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Softmax temperature; the learner's log-probs use the same."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Must be 1 (truncated sampling biases the importance ratios), unless `learner.correction` masks on both sides:
    `icepop`, `sequence_mask` or `geometric_mask`. Then a warning says what bias is left."""
    top_k: Annotated[int, Field(ge=-1)] = -1
    """Must be -1 or 0 (off), for the same reason and with the same exception."""


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


class RewardFunctionSection(Section):
    """[[reward.functions]]: one part of the reward."""

    name: Annotated[str, Field(min_length=1)]
    """A built-in function, or the import path of yours."""
    label: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]{1,64})?$")] = ""
    """Its name in the metrics. Empty: `name`, or what stands behind its colon."""
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    """What its value is multiplied with."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the function, by name."""


class RewardSection(Section):
    """[reward]: what a response is worth, and the process pool that scores responses."""

    functions: Annotated[list[RewardFunctionSection], Field(max_length=32)] = Field(default_factory=list)
    """Tables `[[reward.functions]]` with `name`, `weight` (default 1), `params` and `label`: the reward is the weighted
    sum, and each part is in the metrics as `reward/component/<label>`. `name` is `task` (the task's own verifier),
    `exact_match`, `contains`, `number`, `maths`, `format`, `think_format`, `length`, `repetition`, or a function of
    yours `(prompt, response) -> number`, plain or async: `package.module:function` or `path/to/file.py:function`.
    Empty: the task's own verifier alone."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker processes."""
    timeout_s: Seconds = 10.0
    """Longest time one score may take, all functions together; then the candidate counts as failed and its worker is
    replaced."""


class QueuesSection(Section):
    """[queues]: the depths one tunes for throughput."""

    in_flight_groups: PositiveInt = 16
    """Most groups that are dispatched and not yet complete: what the generators work on."""
    ready_groups: PositiveInt = 16
    """Most complete groups that wait for the learner (high-water mark of the groups link)."""
    oversample_groups: Annotated[int, Field(ge=0)] = 0
    """Groups admitted beyond what the next steps need; `pipeline.unfinished` says what becomes of them. With `keep` the
    slowest of a version can grow too old and are swept: their tokens are lost, and slow prompts are trained less."""
    min_chunk: PositiveInt = 1
    """Groups that the learner waits for before it starts a forward and backward pass (modes other than `sync`; fewer
    when fewer are left of the step). Larger: fuller micro-batches, less overlap."""
    chunk_tokens: Annotated[int, Field(ge=0)] = 0
    """Token streaming: tokens of an unfinished response, certain to be kept, that are sent on to the learner at a time,
    which scores them under its frozen policies meanwhile (`learner.kl_weight`, `learner.updates_per_step`). 0: off."""
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
    """Most candidates that decode at once in one engine; also the replica's credits (with `eval.every_steps` there are
    `eval.samples` more, kept for evaluations)."""
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
    devices: Devices = Field(default_factory=list)
    """GPUs of the replicas, by index on this machine, dealt out in order: as many for each replica as its engine spans
    (`tensor_parallel_size` times `pipeline_parallel_size`), such as `[0, 1]` for two replicas of one GPU each. Each
    process sees its own alone. Empty: every replica sees them all."""


class ShadowSection(Section):
    """[[learner.shadow]]: a loss and a correction that are evaluated beside the ones in use, without their gradient."""

    loss: str = "ppo_clip"
    """As `learner.loss`."""
    correction: str | list[str] = "none"
    """As `learner.correction`."""


class LearnerSection(Section):
    """[learner]: the update."""

    lr: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """Learning rate of AdamW (0 checks the pipeline without learning)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly from 0."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up, until `run.steps`."""
    lr_min_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where `linear` and `cosine` end, as a share of `lr`."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """AdamW's decoupled weight decay; of matrices and embeddings only, never of biases and norms."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""

    loss: str = "ppo_clip"
    """`ppo_clip` (token ratios, clip-higher, dual clip), `gspo` (sequence ratios), `cispo` (clipped weights), or a
    function of yours: `package.module:function` or `path/to/file.py:function`."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """`ppo_clip`: ratios below 1 - clip_low get no gradient for negative advantages."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """`ppo_clip`: ratios above 1 + clip_high get no gradient for positive advantages (clip-higher)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """`ppo_clip`: bound on the ratio of negative advantages (3 to 10 in use). Unset: none."""
    gspo_clip_low: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """`gspo`: as `clip_low`, for the ratio of a response (geometric mean over its tokens)."""
    gspo_clip_high: Annotated[float, Field(gt=0)] = 4e-4
    """`gspo`: as `clip_high`, for the ratio of a response."""
    cispo_clip_high: Annotated[float, Field(gt=0)] = 4.0
    """`cispo`: token weights are cut at 1 + this; there is no lower bound."""
    aggregation: Literal["token", "sequence", "dr_grpo"] = "token"
    """What the step's loss is divided by. `token`: its loss tokens (DAPO). `sequence`: mean over responses of their
    token means (GRPO). `dr_grpo`: responses times `model.max_response_tokens`, a constant."""

    advantage: str = "grpo"
    """`grpo` (mean and std), `dr_grpo` (mean only), `rloo` (leave-one-out), or a function of yours, as for `loss`."""
    overlong_buffer_tokens: Annotated[int, Field(ge=0)] = 0
    """Overlong shaping: the reward of a response falls linearly over the last so many tokens before the cap (DAPO's
    soft overlong punishment). 0: off."""
    overlong_penalty: Annotated[float, Field(ge=0)] = 1.0
    """What is subtracted from the reward at the cap."""
    mask_truncated: bool = False
    """Leave responses that hit the cap out of the loss."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL divergence to the frozen reference policy (k3 estimate, a token). 0: none is loaded."""
    reference: str = ""
    """Folder of the reference policy in Hugging Face format. Empty: the policy as it is at the start (with `lora_rank`
    no second copy: the policy with its adapter off)."""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus."""

    lora_rank: Annotated[int, Field(ge=0, le=1024)] = 0
    """Train an adapter of this rank (LoRA, with peft) in the place of all weights, which then stay as they are: memory
    for the optimiser and the bytes of an update shrink to the adapter's. 8 to 64 in use, with ten times the learning
    rate. 0: train all weights."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """The adapter's product counts `lora_alpha / lora_rank` times. Unset: twice `lora_rank`."""
    lora_targets: str | list[str] = "all-linear"
    """The linear layers that get an adapter, by the last part or parts of their names, such as
    `["q_proj", "v_proj"]`; `all-linear`: all but the output layer."""
    init_optimiser: bool = False
    """Begin with the optimiser's state that lies beside the weights in `model.path`, a checkpoint of an earlier run
    (moments, and master weights under bfloat16); steps and learning-rate schedule begin anew. Without it a run that
    begins from a checkpoint takes its weights alone."""

    correction: str | list[str] = "tis"
    """Off-policy correction, or several (masks, and at most one that weighs). `none`; `tis` (token weights, truncated);
    `decoupled_ppo` (token weights as they are); `icepop` (token weights, 0 outside two bounds); `sequence_mask` and
    `geometric_mask` (responses whose ratio, as product or geometric mean, leaves two bounds are left out);
    `outlier_veto` (responses with one token that the policy finds all but impossible are left out). What is left out
    still counts in what the loss is divided by. With a weight, the old policy of the loss's ratio is the proximal one
    (the policy at the step's start), else the behaviour policy."""
    tis_cap: Annotated[float, Field(ge=1)] = 2.0
    """`tis`: cap of the importance weight."""
    icepop_low: Annotated[float, Field(ge=0, le=1)] = 0.5
    """`icepop`: tokens with a smaller weight are left out."""
    icepop_high: Annotated[float, Field(ge=1)] = 5.0
    """`icepop`: tokens with a larger weight are left out."""
    sequence_mask_low: Annotated[float, Field(ge=0, le=1)] = 0.5
    """`sequence_mask`: responses whose product of token ratios is smaller are left out."""
    sequence_mask_high: Annotated[float, Field(ge=1)] = 2.0
    """`sequence_mask`: responses whose product of token ratios is larger are left out."""
    geometric_mask_low: Annotated[float, Field(ge=0, le=1)] = 0.99
    """`geometric_mask`: responses whose geometric mean of token ratios is smaller are left out."""
    geometric_mask_high: Annotated[float, Field(ge=1)] = 1.01
    """`geometric_mask`: responses whose geometric mean of token ratios is larger are left out."""
    veto_ratio: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """`outlier_veto`: responses with a token whose ratio is smaller are left out."""
    shadow: list[ShadowSection] = Field(default_factory=list)
    """Further pairs of loss and correction, evaluated on the same batches and written to the metrics."""
    shadow_every: PositiveInt = 5
    """Steps between two on which the gradients of the shadows are compared with the used one (one backward pass more
    for each); their other figures come with every step."""

    updates_per_step: PositiveInt = 1
    """Optimiser updates within a step, each over an equal share of its groups. With more than one, the proximal policy
    of the corrections is a frozen copy of the policy at the step's start."""
    micro_batch_tokens: Annotated[int, Field(ge=16)] = 4096
    """Tokens per forward and backward pass, padding included. On a CPU larger is slower (measured: some 10 % at 8192,
    `padding_free`, long-tailed lengths); on a GPU take what memory allows."""
    packing: Literal["bucketed", "padding_free"] = "padding_free"
    """`bucketed`: responses of similar length share padded rows. `padding_free`: one row holds one after the other.
    Measured on a CPU with the quickstart policy, processor time of `padding_free` beside `bucketed`: 12 % less (short
    responses) and 20 % less (long-tailed lengths) where groups come one at a time; 3 % more and 7 % less on a whole
    step at once."""
    logprob_chunk_tokens: PositiveInt = 1024
    """Tokens whose logits exist at a time: memory of the vocabulary's size, not of the batch's. Measured
    for 2048 tokens of 151,936 words: 34 % of the peak of naive logits, with 256 in the place of 1024 9 %."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """`bf16`: matrix products of a float32 model in bfloat16."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Data-parallel processes of the learner; on GPUs one each."""
    sharding: Literal["replicate", "fsdp2"] = "replicate"
    """With several processes: a whole copy in each, or parameters, gradients and optimiser state in shards (FSDP2)."""
    cache_mib: PositiveInt = 256
    """Bound on the keys and values that token streaming keeps of unfinished responses (all together, in MiB)."""
    max_bad_steps: PositiveInt = 3
    """The run fails after this many steps in a row with a loss or gradient that is not finite (each time the update is
    skipped)."""
    max_parity_diff: Annotated[float, Field(gt=0)] | None = None
    """The run fails when the log-probs of engine and learner differ by more than this in the mean over the first
    step's tokens, before its update: temperature, weights or tokens do not agree. `darts-async doctor` says which.
    Unset: 0.005 in float32, 0.1 where one of them computes in bfloat16. (Not with `generator.engine = "sim"`, whose
    log-probs are made up.)"""
    threads: PositiveInt = 1
    """Compute threads of the learner on a CPU."""
    devices: Devices = Field(default_factory=list)
    """GPUs of the learner, by index on this machine, one for each of `processes`; it sees no others. Empty: it sees
    them all and takes the first ones."""


class CheckpointSection(Section):
    """[checkpoint]: Hugging Face folders under `checkpoints/step_<N>`. One is always written at the end."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    """Also write one every so many steps; 0: only at the end."""
    keep: PositiveInt = 2
    """How many of the periodic ones to keep."""
    keep_best: bool = True
    """With `eval.every_steps`: write one at each version that is evaluated, and keep the one with the best held-out
    reward (of equal ones the one with the shorter responses, then the older one); `checkpoints/best.json` names it."""
    optimiser: bool = True
    """Write the optimiser's state, the schedule and the random number generators beside the weights."""
    recovery_steps: Annotated[int, Field(ge=0)] = 20
    """Also write one, under `recovery/`, every so many steps: where a learner that is started anew goes on from. It
    replaces the one before, always has the optimiser's state, and is not written where `every_steps` writes such a one.
    Until then the groups that were trained on stay on disk, and a learner that was lost trains on them again; 0: never.
    """


class EvalSection(Section):
    """[eval]: the held-out set, sampled before the first and after the last step; nothing is cancelled."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    """Also every so many steps while training goes on, at exactly that version: replicas keep it until its evaluation
    is over; 0: never."""
    prompts: Annotated[int, Field(ge=0)] = 128
    """Held-out prompts used; 0 turns evaluation off."""
    samples: PositiveInt = 2
    """Samples per prompt."""


class MetricsSection(Section):
    """[metrics]: who else gets what goes into `metrics.jsonl`, which is always written; and the trace."""

    sinks: Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=16)] = Field(
        default_factory=list
    )
    """Beside `metrics.jsonl`: `tensorboard` (event files under `<run>/tensorboard`), `wandb` (Weights & Biases, under
    `<run>/wandb`), or a function of yours that returns a sink: `package.module:function` or
    `path/to/file.py:function`. The first two need `pip install "darts-async[metrics]"`."""
    sink_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Most lines that wait for a sink that is slow; further ones it does not get, which is warned of and counted. The
    run never waits."""
    sink_timeout_s: Seconds = 5.0
    """Longest time the sinks get when the run ends to write what they have; what then still hangs is left behind."""
    prometheus: Annotated[str, Field(max_length=256)] = ""
    """Address on which the run serves its gauges to Prometheus while it lasts, such as `127.0.0.1:9464`: a host and a
    port, port 0 for a free one (it is shown at the start). Whoever reaches it can read it. Empty: none."""
    wandb_project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] = "darts-async"
    """Project of the `wandb` sink."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """`offline`: written to the run folder, sent with `wandb sync` when you like. `online`: sent as the run goes, with
    the key that `wandb login` has left."""
    engine_metrics: bool = True
    """Pass vLLM's own figures on as `engine/<name>`: requests running and waiting, use of the KV cache, prefix cache
    hits, preemptions, latencies."""
    trace: bool = True
    """Write down what every process did when, for `trace.json` (Perfetto, chrome://tracing) at the end of the run."""
    trace_mib: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Most that the trace takes on disk, in MiB, all processes together; what comes later is left out."""


class LaunchSection(Section):
    """[launch]: processes and sockets."""

    bind: str = "ipc"
    """`ipc` (sockets in a private temporary folder), or `tcp://HOST:PORT` for PORT and the eight ports above it."""
    join: Annotated[int, Field(ge=0, le=64)] = 0
    """Generators that may join the run from elsewhere (`darts-async join`), beside `generator.replicas`; needs a TCP
    `bind`, encrypted links and the ninth port above `bind`'s. They bring the key that lies in the run's `keys/join`."""
    curve: Literal["auto", "on", "off"] = "auto"
    """Encrypted links (CURVE), with keys made for the run, which admit its own roles and nobody else. `auto`: over TCP,
    not in sockets of a private folder; `off`: nowhere, and with an address that others reach `up` warns."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts of a role that was killed or whose engine died, for each of them; one more and the run ends with the
    reason. 0: the first one ends it."""
    restart_backoff_s: Seconds = 1.0
    """Wait before a role's first restart; doubled with each further one, at most a minute."""
    silence_s: Seconds = 60.0
    """A role that gives no sign of life for this long is killed and restarted."""
    stall_s: Seconds = 300.0
    """When nothing has progressed for this long, who waits for whom and the stacks of all roles go to the logs."""
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
    metrics: MetricsSection = MetricsSection()
    launch: LaunchSection = LaunchSection()
