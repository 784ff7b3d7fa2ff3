"""Every message that crosses a process boundary: typed, bounded, validated on arrival, never pickled.

A message is an `msgspec.Struct`; MessagePack on the wire with the type's name as tag. Fields of type `np.ndarray`
travel as extra frames without copies (`darts_async.transport.codec`) and arrive read-only. `__post_init__` states the
invariants between fields; it runs on construction and again on decode, so a peer cannot send what we could not build.

Ids: a group has a number (`group_id`, in order of dispatch); a candidate's id is its group's number and its index in
the group in one integer, so that either can be read back without a table (`candidate_id`, `group_of`, `index_of`).
"""

from __future__ import annotations

from typing import TypeAlias

from darts_async.messages.base import (
    LEDGER_STATES,
    MAX_CANDIDATES,
    MAX_TOKENS,
    ROLES,
    SCHEMA_VERSION,
    CandidateIds,
    GroupIds,
    LedgerState,
    LongText,
    Message,
    NonNegative,
    Purpose,
    Role,
    ShortText,
    VersionSpan,
    VersionSpans,
    candidate_id,
    check_array,
    check_spans,
    group_of,
    index_of,
)
from darts_async.messages.control import (
    Begin,
    EvalResult,
    Fault,
    Finished,
    Heartbeat,
    KnobChange,
    KnobChanges,
    KnobsTaken,
    KnobValue,
    Ready,
    RoleLost,
    RunComplete,
    SetKnobs,
    ShowStacks,
    StepMetrics,
    Stop,
    Wait,
    Warn,
)
from darts_async.messages.plans import (
    CandidatePlaced,
    DispatchState,
    Draws,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    LostDraw,
    ObservedLength,
    OpenGroup,
    PlanAccepted,
    ReplaceCandidate,
    RoundsState,
    StepFilled,
)
from darts_async.messages.rollouts import (
    CancelRollouts,
    ChunksDropped,
    Credits,
    DropBelow,
    EvaluationDone,
    GeneratorHello,
    LatencySamples,
    ParkRollouts,
    Progress,
    RolloutEnded,
    RolloutRequest,
    StreamEnd,
    StreamRollouts,
    Trajectory,
    TrajectoryChunk,
)
from darts_async.messages.training import (
    AllocatorHello,
    AllocatorStarted,
    GroupSwept,
    LearnerState,
    PolicyApplied,
    PolicyScored,
    PolicyUpdate,
    StateTaken,
    StepDone,
    TrainedStep,
    TrainGroup,
)

__all__ = [
    "LEDGER_STATES",
    "MAX_CANDIDATES",
    "MAX_TOKENS",
    "ROLES",
    "SCHEMA_VERSION",
    "AllocatorHello",
    "AllocatorStarted",
    "Begin",
    "CancelRollouts",
    "CandidateIds",
    "CandidatePlaced",
    "ChunkNews",
    "ChunksDropped",
    "Credits",
    "DispatchState",
    "Draws",
    "DropBelow",
    "EvalResult",
    "EvaluationDone",
    "Fault",
    "Finished",
    "FromAllocator",
    "FromAllocatorToSelector",
    "FromGenerator",
    "FromLearner",
    "FromSupervisor",
    "GeneratorHello",
    "GroupComplete",
    "GroupIds",
    "GroupOutcome",
    "GroupPlan",
    "GroupSwept",
    "Heartbeat",
    "KnobChange",
    "KnobChanges",
    "KnobValue",
    "KnobsTaken",
    "LatencySamples",
    "LearnerState",
    "LedgerState",
    "LongText",
    "LostDraw",
    "Message",
    "NonNegative",
    "ObservedLength",
    "OpenGroup",
    "ParkRollouts",
    "PlanAccepted",
    "PlanReply",
    "PolicyApplied",
    "PolicyReply",
    "PolicyScored",
    "PolicyUpdate",
    "Progress",
    "Purpose",
    "Ready",
    "ReplaceCandidate",
    "Role",
    "RoleLost",
    "RolloutEnded",
    "RolloutRequest",
    "RoundsState",
    "RunComplete",
    "SetKnobs",
    "ShortText",
    "ShowStacks",
    "StateTaken",
    "StepDone",
    "StepFilled",
    "StepMetrics",
    "Stop",
    "StreamEnd",
    "StreamRollouts",
    "ToGenerator",
    "ToLearner",
    "ToSelector",
    "ToSupervisor",
    "TrainGroup",
    "TrainedStep",
    "Trajectory",
    "TrajectoryChunk",
    "VersionSpan",
    "VersionSpans",
    "Wait",
    "Warn",
    "candidate_id",
    "check_array",
    "check_spans",
    "group_of",
    "index_of",
]

# What travels on each link, each way.
FromGenerator: TypeAlias = Credits | LatencySamples
FromAllocator: TypeAlias = RolloutRequest | EvaluationDone | AllocatorStarted
ToSelector: TypeAlias = Progress | Trajectory | RolloutEnded | StreamEnd
FromLearner: TypeAlias = StepDone | GroupSwept | LearnerState | StreamEnd
FromAllocatorToSelector: TypeAlias = GroupPlan | CandidatePlaced | AllocatorHello | EvalResult
PlanReply: TypeAlias = PlanAccepted | ReplaceCandidate | StepFilled | GroupComplete | GroupOutcome | DispatchState
ToGenerator: TypeAlias = CancelRollouts | ParkRollouts | StreamRollouts | DropBelow
ToLearner: TypeAlias = TrainGroup | StateTaken | ChunksDropped | StreamEnd
ChunkNews: TypeAlias = TrajectoryChunk | ChunksDropped
ToSupervisor: TypeAlias = (
    Ready | Heartbeat | StepMetrics | EvalResult | Finished | RunComplete | Warn | Fault | KnobsTaken
)
FromSupervisor: TypeAlias = Begin | Stop | RoleLost | SetKnobs | ShowStacks
PolicyReply: TypeAlias = GeneratorHello | AllocatorHello | PolicyApplied | PolicyScored
