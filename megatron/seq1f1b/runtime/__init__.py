"""Executes a plan on one stage: compute, send, receive, free.

Read `executor.py` first; `program.py` is the computation behind its actions (`model_inputs.py` cuts
what the model gets, `loss.py` puts together what it returns), `channels.py` its messages, and
`chunked_schedule.py` makes a `forward_backward_func` of them. `unserved.py` says what is refused.
"""
