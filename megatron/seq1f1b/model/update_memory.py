"""What updating a parameter holds beside it. Pure arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UpdateMemory:
    """What gradients and optimizer hold of every parameter, in bytes."""

    gradient_bytes: int = 4
    """Gradients accumulate in float32, also under bfloat16, unless they are asked to be bfloat16, too."""
    num_moments: int = 2
    """Of float32: Adam's two, or SGD's momentum."""

    def optimizer_bytes(self, *, is_mixed: bool) -> int:
        """The moments, and under bfloat16 the float32 master weight."""
        return 4 * (self.num_moments + is_mixed)
