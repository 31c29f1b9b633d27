"""A GPT from megatron.core with our attention and rotary table in it; FLOPs and memory formulas.

`flops.py` is plain arithmetic and imports no torch; `gpt.py` builds the model.
"""
