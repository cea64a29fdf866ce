"""Made-up speech for these tests: bursts of a tone at known places on a silent track."""

import numpy as np

RATE = 16000


def track(seconds: float, *bursts: tuple[float, float] | tuple[float, float, float]) -> np.ndarray:
    """Return a track [N] with bursts (start s, end s[, level in dB below the others])."""
    wav = np.zeros(round(seconds * RATE), dtype=np.float32)
    for start, end, *down in bursts:
        span = slice(round(start * RATE), round(end * RATE))
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(span.stop - span.start) / RATE)
        wav[span] = tone * 10 ** (-(down[0] if down else 0.0) / 20)
    return wav
