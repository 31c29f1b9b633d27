"""Megatron-Core's notation for which virtual stage has what: `E` embedding, `t` layer, `L` loss, `|` between.

Virtual stages stand in the order in which a token passes them, so a layout of p v of them puts v on
each of p ranks. `x*3` repeats a letter and `(tt|)*3` a group; commas are for the eye. Thus `Et|tt|ttL`.
"""

from __future__ import annotations

import re

from megatron.seq1f1b.errors import ConfigurationError

FLAG = "--pipeline-model-parallel-layout"
_REPEATED = re.compile(r"(?:\(([^()]*)\)|([^()*]))\*(\d+)")


def layers_of_layout(text: str, *, num_layers: int, stages: int) -> tuple[int, ...]:
    """Layers of every virtual stage.

    Raises:
        ConfigurationError: letters that mean nothing here, or a layout of another model or pipeline.
    """
    parts = _written_out(text).split("|")
    found = "".join(parts)
    reasons = {
        f"what is none of E, t and L is not served: {''.join(sorted(set(found) - set('EtL')))}": (
            bool(set(found) - set("EtL"))
        ),
        "it must begin with E, the embedding, and end with L, the loss, and have each of them once": (
            re.fullmatch("Et*L", found) is None
        ),
        f"it has {found.count('t')} layers (t), and --num-layers is {num_layers}": (
            found.count("t") != num_layers
        ),
        f"its {len(parts)} virtual stages are no multiple of --pipeline-model-parallel-size {stages}": (
            len(parts) % stages != 0
        ),
        "one stage needs no layout; leave it out": stages == 1,
        "virtual stages beside the first and the last need a layer (t) each": (
            any(not part for part in parts[1:-1])
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigurationError(f"{FLAG} {text}: {reason}")
    return tuple(part.count("t") for part in parts)


def _written_out(text: str) -> str:
    """Without commas and repetitions."""
    text, count = text.replace(",", ""), 1
    while count:
        text, count = _REPEATED.subn(lambda match: (match[1] or match[2] or "") * int(match[3]), text)
    return text
