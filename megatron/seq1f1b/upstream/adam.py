"""Adam that keeps its step count where Megatron-Core's distributed optimizer can save it.

Transformer Engine's and Apex's fused Adams keep one step count per parameter group; torch keeps one
tensor per parameter. Megatron-Core 0.16.1 asks for the latter in distrib_optimizer.py where neither
library is installed, and loses it: its states are allocated without a step (line 777), loaded steps
become one tensor that every parameter counts up (line 821), and copying states asks checkpoints for
a step that they do not have (line 937). This Adam keeps the fused ones' convention, so that a
checkpoint is exact, reshardable, and the same whichever Adam wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import megatron.core.optimizer as optimizers
import torch
from megatron.core.optimizer import distrib_optimizer
from torch.optim.adam import adam


class GroupStepAdamW(torch.optim.AdamW):
    """torch's AdamW, to the last bit, with `step` in the parameter group; its Adam without `adam_w_mode`."""

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        adam_w_mode: bool = True,
    ) -> None:
        # AdamW's own sets what tells it from Adam.
        torch.optim.Adam.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=adam_w_mode,
        )

    def __setstate__(self, state: dict[str, object]) -> None:
        # AdamW's own looks for a step in each parameter's state.
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Megatron-Core passes no closure"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in parameters]
            beta1, beta2 = group["betas"]
            # The function counts these up by one before it uses them.
            steps = [torch.tensor(float(group.get("step", 0))) for _ in parameters]
            adam(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                decoupled_weight_decay=group["decoupled_weight_decay"],
            )
            group["step"] = int(group.get("step", 0)) + 1

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def choose_adam() -> str:
    """Let Megatron-Core use `GroupStepAdamW` where it found no fused Adam; whose it uses, for the banner."""
    if optimizers.USING_PYTORCH_OPTIMIZER:
        optimizers.Adam = GroupStepAdamW
        optimizers.USING_PYTORCH_OPTIMIZER = False
        distrib_optimizer.HAVE_APEX_OR_TE = True
        distrib_optimizer.USING_APEX_OPTIMIZER = True
    return "torch's" if optimizers.Adam is GroupStepAdamW else maker_of(optimizers.Adam)


def maker_of(optimizer: type) -> str:
    """Whose optimizer Megatron-Core found."""
    package = optimizer.__module__.split(".")[0]
    names = {"torch": "torch's", "transformer_engine": "Transformer Engine's fused", "apex": "Apex's fused"}
    return names.get(package, package)
