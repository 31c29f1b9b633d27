"""What Megatron-Core and the torch below it warn of on every run, and nobody who trains can change.

Each entry is a message and the module that says it, seen with the supported releases; other warnings
of the same modules get through. What they are about is said once elsewhere: the banner names the Adam and
the attention kernels in use.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple


class Known(NamedTuple):
    """One warning: how its message starts, as a regular expression, its category, and who says it."""

    message: str
    category: type[Warning]
    module: str


KNOWN = (
    # On import, where the two libraries are missing.
    Known("Transformer Engine and Apex are not installed", UserWarning, r"megatron\.core\."),
    Known("Apex is not installed", UserWarning, r"megatron\.core\.models\."),
    Known(
        "The following imports from `dynamic_context.py`", DeprecationWarning, r"megatron\.core\.inference\."
    ),
    Known("`torch.jit.script_method` is deprecated", DeprecationWarning, r"torch\.jit\."),
    # On building a model.
    Known("If you are using transformer_engine as", UserWarning, r"megatron\.core\.transformer\."),
    Known("Warning. tp_group is None", DeprecationWarning, r"megatron\.core\.tensor_parallel\."),
    Known("MLP requires ffn_hidden_size", DeprecationWarning, r"megatron\.core\.transformer\."),
    # In a rehearsal, which has no streams; a run sets the variable.
    Known(
        "When using sequence parallelism it is recommended", UserWarning, r"megatron\.core\.tensor_parallel\."
    ),
    # With the distributed optimizer or sequence parallelism, in every step.
    Known("The .grad attribute of a Tensor that is not a leaf", UserWarning, r"megatron\.core\.optimizer\."),
    Known("`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning, r"torch\.distributed\."),
    Known("`torch.distributed.reduce_scatter_tensor` is deprecated", FutureWarning, r"torch\.distributed\."),
    # On saving and loading.
    Known(
        "Please use DTensor instead and we are deprecating ShardedTensor",
        FutureWarning,
        r"torch\.distributed\.",
    ),
    Known("`load_state_dict` is deprecated", FutureWarning, r"megatron\.core\.dist_checkpointing\."),
)


def silence_known_warnings() -> None:
    """Ignore them in this process from now on."""
    for known in KNOWN:
        warnings.filterwarnings("ignore", *known)
