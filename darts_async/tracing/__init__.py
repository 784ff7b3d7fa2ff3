"""What every process of a run did when, for `trace.json`: spans, instants, counters, and arrows along a group.

A role records into memory (`role_trace`), a writer takes that to `<run>/trace/` (`trace_file`), and when the run ends
`merge` makes one file of it that ui.perfetto.dev opens. Nothing here may slow a run down or end it: what cannot be
written is left out and said. Times are `clock.now_s()`, so a run on virtual time has a trace as well.
"""

from darts_async.tracing.merge import Merged, merge_trace
from darts_async.tracing.role_trace import OFF, Lane, RoleTrace, current, record_as, trace_of
from darts_async.tracing.trace_file import TraceFile

__all__ = ["OFF", "Lane", "Merged", "RoleTrace", "TraceFile", "current", "merge_trace", "record_as", "trace_of"]
