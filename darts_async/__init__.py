"""darts-async: asynchronous RL post-training with length-aware selection (DARTS, arXiv 2605.30859).

The library half of the project: configuration, messages, transport, the pure algorithms, tasks, engines and the
launcher. It knows nothing of the `actors` package; the launcher starts roles by module name.
"""

__version__ = "0.1.0"
