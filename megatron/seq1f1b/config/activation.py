"""Which activation the MLPs have, of the flags that choose one."""

from __future__ import annotations

from enum import Enum

from megatron.seq1f1b.config.options import ModelOptions
from megatron.seq1f1b.errors import ConfigurationError


class Activation(str, Enum):
    """Between an MLP's two matrices; a value is the flag that asks for it."""

    GELU = "the default"
    TANH_GELU = "--openai-gelu"
    SQUARED_RELU = "--squared-relu"
    SWIGLU = "--swiglu"
    QUICK_GEGLU = "--quick-geglu"

    @property
    def is_gated(self) -> bool:
        """Whether one half of the first matrix's outputs is a gate of the other."""
        return self in (Activation.SWIGLU, Activation.QUICK_GEGLU)


def activation_of(model: ModelOptions) -> Activation:
    """The activation asked for.

    Raises:
        ConfigurationError: two at once, or what only gated ones have.
    """
    flags = {
        Activation.TANH_GELU: model.openai_gelu,
        Activation.SQUARED_RELU: model.squared_relu,
        Activation.SWIGLU: model.swiglu,
        Activation.QUICK_GEGLU: model.quick_geglu,
    }
    asked = [activation for activation, is_asked in flags.items() if is_asked]
    if len(asked) > 1:
        both = " and ".join(each.value for each in asked[:2])
        raise ConfigurationError(f"{both} are two activations; give one of them")
    activation = asked[0] if asked else Activation.GELU
    of_gates = {
        f"--glu-linear-offset {model.glu_linear_offset:g}": model.glu_linear_offset != 0,
        f"--activation-func-clamp-value {model.activation_func_clamp_value}": (
            model.activation_func_clamp_value is not None
        ),
    }
    for flag, is_given in of_gates.items():
        if is_given and not activation.is_gated:
            raise ConfigurationError(f"{flag} needs a gate; give --swiglu or --quick-geglu, or leave it out")
    return activation
