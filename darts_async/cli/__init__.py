"""The command line. Imports are late on purpose: `--help` answers at once, `--dry-run` never sees torch.

One file per group of verbs; `root` lists them all. A verb is a few lines that call the launcher.

Exit status: 0 done, 2 bad config or usage, 1 the run failed, 130 interrupted after a clean drain.
"""

from darts_async.cli.arguments import parse_arguments
from darts_async.cli.root import cli, main

__all__ = ["cli", "main", "parse_arguments"]
