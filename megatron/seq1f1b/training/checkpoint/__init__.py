"""Checkpoints: written whole or not at all, read under any layout.

    SAVE/latest_checkpointed_iteration.txt     as Megatron users expect
    SAVE/iter_0000100/checkpoint.json          what the checkpoint is, size and checksum of its files
    SAVE/iter_0000100/...                      Megatron-Core's distributed checkpoint (torch_dist)

`manifest.py` says what a whole checkpoint is, `integrity.py` whether its files are what was written,
`folder.py` finds and replaces them, `state.py` gathers what is in them, `save.py` and `load.py` move it.
"""
