"""Processor and memory of the whole machine, from ``/proc``, as Triton shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_GUEST = 8
"""Fields of ``/proc/stat`` from here on are counted in earlier ones already."""
_IDLE = (3, 4)
"""Idle, and waiting for a disk."""


class Host:
    """Remembers the ticks of the last look, for the use in between."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._ticks = self._look()

    def numbers(self) -> Iterator[tuple[str, str, float]]:
        """Name, help and value of each gauge; none where the system has no ``/proc``."""
        use = self._use()
        if use is not None:
            yield "nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", use
        memory = self._memory()
        total, free = memory.get("MemTotal"), memory.get("MemAvailable")
        if total is not None and free is not None:
            yield "nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", total
            yield "nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", total - free

    def _use(self) -> float | None:
        before, now = self._ticks, self._look()
        if before is None or now is None:
            return None
        self._ticks = now
        passed = sum(now) - sum(before)
        idle = sum(now[i] - before[i] for i in _IDLE)
        return min(max(1 - idle / passed, 0.0), 1.0) if passed > 0 else 0.0

    def _look(self) -> tuple[int, ...] | None:
        try:
            line = (self._proc / "stat").read_text().partition("\n")[0]
        except OSError:
            return None
        return tuple(map(int, line.split()[1:][:_GUEST]))

    def _memory(self) -> dict[str, int]:
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
        except OSError:
            return {}
        pairs = (line.partition(":") for line in lines)
        return {name: int(rest.split()[0]) * 1024 for name, _, rest in pairs if rest.strip()}
