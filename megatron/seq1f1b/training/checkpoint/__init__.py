"""Checkpoints: written whole or not at all, read under any layout.

    SAVE/latest_checkpointed_iteration.txt     as Megatron users expect
    SAVE/iter_0000100/checkpoint.json          what the checkpoint is, and the size of its files
    SAVE/iter_0000100/...                      Megatron-Core's distributed checkpoint (torch_dist)

`manifest.py` says what a whole checkpoint is, `folder.py` finds and replaces them, `state.py` gathers
what is in them, `save.py` and `load.py` move it.
"""
