"""Device profiles: files that say how fast a device computes and its links carry.

A profile from a data sheet has assumed efficiencies and says so in `source`; a measured one has
measured ones. Which formulas use them stands in `device_costs.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

from megatron.seq1f1b.errors import ConfigurationError

SHIPPED = Path(__file__).resolve().parents[3] / "examples" / "devices"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One device and its links."""

    name: str
    source: str
    """Where the numbers come from."""
    memory_bytes: float
    peak_flops_per_second: float
    """Of matrix products in the precision of training."""
    memory_bytes_per_second: float
    matrix_efficiency: float
    """Share of the peak that large matrix products reach."""
    attention_forward_efficiency: float
    attention_backward_efficiency: float
    tokens_at_half_efficiency: float
    """Rows at which a matrix product reaches half of its efficiency; short chunks suffer."""
    layer_overhead_seconds: float
    """Of launches, per layer and chunk, in each direction."""
    devices_per_node: int
    node_bytes_per_second: float
    """Between devices of a node, per device and direction."""
    network_bytes_per_second: float
    """Between nodes, per device and direction."""
    latency_seconds: float
    """Of a message."""


def load_device(name: str) -> Device:
    """A shipped profile by name, or one from a JSON file.

    Raises:
        ConfigurationError: no such profile, or a file with missing, unknown or impossible fields.
    """
    path = Path(name) if name.endswith(".json") else SHIPPED / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json")))
        raise ConfigurationError(
            f"there is no device profile {name}; use one of {shipped}, or the path of a .json file"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"device profile {path} is not JSON: {error}") from None
    return _device(path, values)


def _device(path: Path, values: object) -> Device:
    if not isinstance(values, dict):
        raise ConfigurationError(f"device profile {path} must be one JSON object")
    names = {field.name for field in fields(Device)}
    missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
    if missing or unknown:
        problems = [f"lacks {', '.join(missing)}"] if missing else []
        problems += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise ConfigurationError(f"device profile {path} {' and '.join(problems)}; see examples/devices")
    for field in fields(Device):
        value = values[field.name]
        if field.type == "str":
            is_right = isinstance(value, str)
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_right = is_number and math.isfinite(value) and value >= 0
            is_right = is_right and (value > 0 or field.name.endswith("_seconds") or "half" in field.name)
            is_right = is_right and (field.type != "int" or value == int(value))
        if not is_right:
            raise ConfigurationError(f"device profile {path}: {field.name} {value!r} is impossible")
    return Device(**values)
