"""Runs from Python: in a script, a notebook, a sweep. What `darts_async.run` and `darts_async.arun` are.

A run's roles are processes of their own, started by command: none of them imports the program that calls this, so a
script needs no `if __name__ == "__main__"`.
"""

from darts_async.api.result import Result
from darts_async.api.start import arun, run

__all__ = ["Result", "arun", "run"]
