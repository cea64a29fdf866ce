"""Desk conditions: on which lines, with whose voices and wordings a support desk is called, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from s2s.evaluation.caller_script import Plan
from s2s.evaluation.line import LineConfig

# Calls of each plan of a whole evaluation, and of one that only asks how much success is left.
WHOLE: dict[Plan, int] = {
    "single": 63, "talk": 33, "pause": 12, "barge_in": 16, "over_opening": 6, "backchannel": 10, "side_speech": 4,
    "noise": 6, "silence": 8, "unclear": 4, "ladder": 8,
}  # fmt: skip
PART: dict[Plan, int] = {"single": 43, "talk": 6}
DIGITS: dict[Plan, int] = {"digits": 40}
ACCENTS: dict[Plan, int] = {"accent": 60}
CALLS = sum(WHOLE.values())


@dataclass(frozen=True)
class Condition:
    """One way to call. voices: of clips that were trained on, or kept for tests; split: whose wordings.

    What is not `reported` is tried only when it is asked for: wordings to choose a model by, so that the report's are
    seen by nobody before.
    """

    name: str
    title: str
    line: LineConfig = field(default_factory=LineConfig)
    voices: Literal["trained", "heldout"] = "trained"
    split: Literal["train", "validation", "test"] = "train"
    plans: dict[Plan, int] = field(default_factory=lambda: dict(PART))
    reported: bool = True

    def counts(self, calls: int) -> dict[Plan, int]:
        """Calls per plan when a whole evaluation has `calls`; at least one of each."""
        return {plan: max(1, round(count * calls / CALLS)) for plan, count in self.plans.items()}


def all_conditions() -> dict[str, Condition]:
    """By name, the clean one first."""
    conditions = [
        Condition("clean", "clean", plans=dict(WHOLE)),
        Condition("mulaw", "mu-law, 8 kHz", LineConfig(telephone=True)),
        *(
            Condition(f"noise_{snr}", f"noise, {snr} dB", LineConfig(noise_snr_db=float(snr)))
            for snr in (20, 15, 10, 5)
        ),
        *(Condition(f"loss_{loss}", f"{loss} % lost", LineConfig(loss_rate=loss / 100)) for loss in (1, 5, 10)),
        Condition("voices", "unheard voices", voices="heldout"),
        Condition("wordings", "unheard wordings", split="test"),
        Condition("unheard", "unheard voices and wordings", voices="heldout", split="test", plans=dict(WHOLE)),
        Condition(
            "validation",
            "unheard voices, wordings to choose by",
            voices="heldout",
            split="validation",
            plans=dict(WHOLE),
            reported=False,
        ),
        Condition("human_digits", "digits said by people", plans=dict(DIGITS)),
        Condition("human_accents", "sentences read by people with accents", plans=dict(ACCENTS)),
    ]
    return {condition.name: condition for condition in conditions}
