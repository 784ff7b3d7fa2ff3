"""Where a run's metrics go beside `metrics.jsonl`: TensorBoard, Weights & Biases, Prometheus, a sink of the user's own.

The run never waits for any of them and none of them can end it.
"""

from darts_async.sinks.base import Sink, SinkRun

__all__ = ["Sink", "SinkRun"]
