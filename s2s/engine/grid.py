"""Grid: when the ticks of live calls are due, in wall time. Late ticks never move the ones after them."""

from __future__ import annotations


class Grid:
    """Tick n is due at start + n * step_size / sample_rate and has to be done before the next one is due."""

    def __init__(self, step_size: int, sample_rate: int, max_late: int, start_s: float):
        """Args: max_late: how many ticks that are overdue are made up for; older ones are left out."""
        self.step_size, self.sample_rate, self.max_late = step_size, sample_rate, max_late
        self.ticks = 0  # of the grid: done and left out
        self.misses = 0
        self.left_out = 0
        self._start_s = start_s

    @property
    def due_s(self) -> float:
        """When the next tick is due."""
        # From the count and not from the tick before, so that rounding does not add up.
        return self._start_s + self.ticks * self.step_size / self.sample_rate

    def done(self, now_s: float) -> int:
        """Count a tick that ended now; returns how many ticks are left out because they are hopelessly late."""
        self.ticks += 1
        late = now_s - self.due_s
        if late <= 0:
            return 0
        self.misses += 1
        left_out = max(0, int(late * self.sample_rate / self.step_size) - self.max_late)
        self.ticks += left_out
        self.left_out += left_out
        return left_out
