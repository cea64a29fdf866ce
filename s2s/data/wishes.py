"""What a caller wants to say next: drawn from what makes sense in the state of the call."""

from collections.abc import Callable, Mapping

import numpy as np

from s2s.data.desk import Desk, DeskCall

# Callers who give a number, ask for something again or know the opening's answer come often; the rest weigh 1.
WEIGHTS = {
    "track": 2.5, "late": 1.5, "give_number": 1.5, "track_with_number": 3.0, "change_address": 2.0, "redeliver": 2.0,
    "opening_hours": 2.0, "location": 2.0, "refund": 1.5, "human": 1.5, "hello": 1.5, "thanks": 1.5, "goodbye": 1.5,
    "repeat": 1.5, "out_of_scope": 1.5, "filler_unclear": 1.0, "hold_on": 1.0,
}  # fmt: skip
CORRECTIONS = 0.22  # of what is answered to a number that is read back
# What is said while the agent waits for an answer, as shares; "" is any intent that fits always.
ANSWERS: dict[str, dict[str, float]] = {
    "number": {"give_number": 0.82, "repeat": 0.05, "hold_on": 0.06, "filler_unclear": 0.03, "": 0.04},
    "confirm_number": {
        "confirm_number_yes": 0.66,
        "confirm_no": CORRECTIONS,
        "repeat": 0.05,
        "hold_on": 0.02,
        "": 0.05,
    },
    "zip": {"give_zip": 0.84, "repeat": 0.05, "hold_on": 0.05, "filler_unclear": 0.02, "": 0.04},
    "confirm_zip": {"confirm_zip_yes": 0.68, "confirm_no": CORRECTIONS, "repeat": 0.05, "": 0.05},
    "part_of_day": {"say_morning": 0.44, "say_afternoon": 0.44, "repeat": 0.05, "hold_on": 0.03, "": 0.04},
}
# "Yes" and "no" are said alike to both questions, unless they name the thing that was asked for.
YES = ("confirm_number_yes", "confirm_zip_yes")
FOREIGN = {"confirm_number": ("zip", "code", "address", "area"), "confirm_zip": ("parcel", "package", "tracking")}


class Wishes:
    """Draws intents of a desk."""

    def __init__(
        self,
        desk: Desk,
        weights: Mapping[str, float],
        available: Callable[[str], bool],
        unclear_again: float = 0.25,
        corrections: float = CORRECTIONS,
    ) -> None:
        """`weights` by intent (1 where absent) hold outside of questions; `available` says what there are clips of.

        `unclear_again`: how often a caller who was not understood is not understood again; `corrections`: how often one
        whose number is read back says no instead of yes.
        """
        free = [name for name, intent in desk.intents.items() if not intent.contexts]
        self.free = [name for name in (*free, "track_with_number", "filler_unclear") if available(name)]
        self.weights = np.array([weights.get(name, 1.0) for name in self.free])
        self._available, self._unclear_again = available, unclear_again
        self._answers = {waiting: _corrected(shares, corrections) for waiting, shares in ANSWERS.items()}

    def draw(self, state: DeskCall, rng: np.random.Generator, ending: bool) -> str:
        """The next intent; `ending` says that it may well be the last one."""
        if state.not_understood and rng.random() < self._unclear_again:
            return _pick({"filler_unclear": 0.5, "out_of_scope": 0.5}, rng)
        answers = {n: p for n, p in self._answers.get(state.waiting, {}).items() if not n or self._available(n)}
        chosen = _pick(answers, rng) if answers else ""
        if chosen:
            return chosen
        if ending and rng.random() < 0.35:
            return _pick({"thanks": 0.5, "goodbye": 0.5}, rng)
        fits = self.weights * [state.allows(name) for name in self.free]
        return self.free[int(rng.choice(len(self.free), p=fits / fits.sum()))]


def _corrected(shares: Mapping[str, float], corrections: float) -> dict[str, float]:
    """The same shares with so many corrections, at the cost of yes."""
    more = corrections - shares.get("confirm_no", corrections)
    most = min((p + shares["confirm_no"] for name, p in shares.items() if name in YES), default=1.0)
    if not 0 <= corrections <= most:
        raise ValueError(f"corrections is {corrections}, allowed is 0 to {most:.2f}")
    return {name: p + more * ((name == "confirm_no") - (name in YES)) for name, p in shares.items()}


def _pick(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]
