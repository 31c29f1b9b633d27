"""What a run says of its steps: files, dashboards and the terminal.

`writers.py` has one class per place that metrics go to, `scalars.py` the names they have in charts,
`progress.py` what follows from several steps, `run_log.py` puts them together on rank 0.
"""
