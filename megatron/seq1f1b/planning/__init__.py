"""Answers before a run: what fits, how fast it will be, where to cut sequences, which layout to take.

`estimate` (memory in closed form), `profiled` (boundaries from measured times), `devices`, `search`
and the pictures need no torch; `dry_run` runs the real model code on fake tensors and imports it.
Nothing is imported here, so that a tool pays for what it uses alone.
"""
