"""Comparing presets: which runs a table is made of, what the runs report while they go, and the table itself.

Light: no torch, no engine. `actors.bench` runs the cells, `darts_async.launcher.bench` starts it.
"""
