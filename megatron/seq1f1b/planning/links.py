"""Links between stages as `tools/measure_links.py` measured them, in the place of a profile's."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.devices import Device


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """The slowest measured links; a stage waits for those."""

    source: str
    """The file."""
    latency_seconds: float
    """Of a message, the largest."""
    node_bytes_per_second: float | None
    """Inside nodes; None where no such link was measured."""
    network_bytes_per_second: float | None
    """Between nodes; None likewise."""

    def on(self, device: Device) -> Device:
        """The device with the measured links in place of its profile's."""
        measured = {
            name: value
            for name in ("node_bytes_per_second", "network_bytes_per_second", "latency_seconds")
            if (value := getattr(self, name)) is not None
        }
        return replace(device, source=f"{device.source}; links measured, {self.source}", **measured)


def read_links(path: Path) -> Links:
    """Read what `tools/measure_links.py` wrote.

    Raises:
        ConfigurationError: no such file, or not one of that tool.
    """
    try:
        links = json.loads(path.read_text(encoding="utf-8"))["links"]
        inside = [float(link["bytes_per_second"]) for link in links if link["is_inside_node"]]
        between = [float(link["bytes_per_second"]) for link in links if not link["is_inside_node"]]
        latencies = [float(link["latency_seconds"]) for link in links]
    except OSError as error:
        raise ConfigurationError(f"cannot read links {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is no file of tools/measure_links.py: {type(error).__name__} {error}"
        ) from None
    values = [*inside, *between, *latencies]
    if not latencies or not all(math.isfinite(value) and value > 0 for value in values):
        raise ConfigurationError(f"{path} holds no links, or one whose speed is not positive; measure again")
    return Links(
        source=path.name,
        latency_seconds=max(latencies),
        node_bytes_per_second=min(inside, default=None),
        network_bytes_per_second=min(between, default=None),
    )
