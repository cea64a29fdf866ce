"""The support desk as rules: what callers can mean, what the agent answers, and what it then waits for."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s2s.phrases import DIGIT_WORDS, Phrase, Phrases

NUMBER_LENGTHS = {"give_number": 4, "give_zip": 5}
STATUS_INTENT = "confirm_number_yes"
_SLOT = re.compile(r"\{(\w+)\}")
_DIGIT_RUN = re.compile(
    rf"\b(?:{'|'.join(DIGIT_WORDS)}|oh|double)\b(?:[\s,]+(?:{'|'.join(DIGIT_WORDS)}|oh|double)\b)*", re.IGNORECASE
)


@dataclass(frozen=True)
class Intent:
    """One thing a caller can mean; `contexts` are the questions after which alone it makes sense (empty: always)."""

    name: str
    reply: str
    ask: str = ""
    contexts: tuple[str, ...] = ()
    replies_by_digit: tuple[tuple[str, str], ...] = ()
    action: str = ""


@dataclass(frozen=True)
class Reply:
    """What the agent says: `key` names the reply (the same for all digits), `digits` is what it reads back."""

    key: str
    text: str
    digits: str = ""
    action: str = ""


@dataclass(frozen=True)
class Desk:
    """All intents and the rules that are not per intent."""

    company: str
    opening: str
    intents: Mapping[str, Intent]
    unclear: str
    unclear_again: str
    still_there: str
    give_up: str

    @property
    def actions(self) -> tuple[str, ...]:
        """What the agent does besides speaking: what intents ask for and what the rules of the desk end in."""
        return tuple(sorted({"handoff", "hangup"} | {i.action for i in self.intents.values() if i.action}))

    def fixed_replies(self) -> dict[str, str]:
        """Every reply without a slot, by key."""
        replies = {
            "opening": self.opening,
            "unclear": self.unclear,
            "unclear_again": self.unclear_again,
            "still_there": self.still_there,
            "give_up": self.give_up,
        }
        for intent in self.intents.values():
            if intent.reply and not _is_slot(intent.reply) and intent.name != "repeat":
                replies[intent.name] = intent.reply
            replies |= {f"{intent.name}/{digits}": text for digits, text in intent.replies_by_digit}
        return replies

    def phrases(self) -> Phrases:
        """All that the agent may say, with the actions that follow it."""
        actions = {"unclear_again": "handoff", "give_up": "hangup"}
        actions |= {intent.name: intent.action for intent in self.intents.values() if intent.action}
        found = [Phrase(text, actions.get(key, "")) for key, text in self.fixed_replies().items()]
        found += [Phrase(self.intents[name].reply) for name in NUMBER_LENGTHS]
        slots = {
            slot: length for name, length in NUMBER_LENGTHS.items() for slot in _SLOT.findall(self.intents[name].reply)
        }
        return Phrases(tuple(found), slots)

    def read_back(self, intent: str, digits: str) -> str:
        """The reply of `give_number` or `give_zip` with its digits filled in, read one by one."""
        if intent not in NUMBER_LENGTHS or not re.fullmatch(rf"\d{{{NUMBER_LENGTHS[intent]}}}", digits):
            raise ValueError(f"{intent!r} with digits {digits!r}: allowed are {NUMBER_LENGTHS} and that many digits")
        spoken = speak_digits(digits)
        return self.intents[intent].reply.replace("{number}", spoken).replace("{zip}", spoken)

    def status(self, number: str) -> tuple[str, str]:
        """Key and text of the reply that the first digit of a parcel number selects."""
        for digits, text in self.intents[STATUS_INTENT].replies_by_digit:
            low, high = digits.split("-")
            if number and low <= number[0] <= high:
                return f"{STATUS_INTENT}/{digits}", text
        raise ValueError(f"parcel number {number!r}: its first character must be a digit from 0 to 9")


class DeskCall:
    """The state of one call: what the agent waits for, the last number and the last reply.

    `waiting` is one of "", "number", "confirm_number", "zip", "confirm_zip", "part_of_day"; `not_understood` says that
    the last turn was unclear or out of scope: a second one in a row goes to a colleague.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.waiting = ""
        self.number = ""
        self.last_reply: Reply | None = None
        self.not_understood = False

    def open(self) -> Reply:
        """The agent's first words."""
        return self._say(Reply("opening", self.desk.opening))

    def allows(self, intent: str) -> bool:
        """Whether `intent` makes sense now."""
        if intent == "repeat":
            return self.last_reply is not None
        if intent in ("track_with_number", "filler_unclear"):
            return True
        contexts = self.desk.intents[intent].contexts
        return not contexts or self.waiting in contexts

    def hear(self, intent: str, digits: str = "") -> Reply:
        """The reply to one caller turn; ValueError if it makes no sense now (see `allows`)."""
        if not self.allows(intent):
            raise ValueError(f"intent {intent!r} while waiting for {self.waiting!r} after {self.last_reply}")
        if intent == "repeat" and self.last_reply is not None:
            return self.last_reply
        if intent in ("filler_unclear", "out_of_scope"):
            return self._not_helped(intent)
        self.not_understood = False
        if intent in ("give_number", "track_with_number"):
            self.number, self.waiting = digits, "confirm_number"
            return self._say(Reply("give_number", self.desk.read_back("give_number", digits), digits))
        if intent == "give_zip":
            self.waiting = "confirm_zip"
            return self._say(Reply(intent, self.desk.read_back(intent, digits), digits))
        if intent == STATUS_INTENT:
            self.waiting = ""
            return self._say(Reply(*self.desk.status(self.number)))
        found = self.desk.intents[intent]
        if found.ask == "same":
            self.waiting = self.waiting.removeprefix("confirm_")
        elif intent != "hold_on":
            self.waiting = found.ask
        return self._say(Reply(intent, found.reply, action=found.action))

    def silence(self) -> Reply:
        """The reply to six seconds of silence: a question, and the second time in a row a farewell."""
        if self.last_reply is not None and self.last_reply.key == "still_there":
            return self._say(Reply("give_up", self.desk.give_up, action="hangup"))
        return self._say(Reply("still_there", self.desk.still_there))

    def _not_helped(self, intent: str) -> Reply:
        if self.not_understood:
            return self._say(Reply("unclear_again", self.desk.unclear_again, action="handoff"))
        self.not_understood = True
        text = self.desk.unclear if intent == "filler_unclear" else self.desk.intents[intent].reply
        return self._say(Reply("unclear" if intent == "filler_unclear" else intent, text))

    def _say(self, reply: Reply) -> Reply:
        self.last_reply = reply
        return reply


def load_desk(path: Path | str) -> Desk:
    """Read a desk from YAML: `opening`, `intents` by name, `rules` whose quoted parts are what the agent says."""
    return parse_desk(yaml.safe_load(Path(path).read_text("utf-8")))


def parse_desk(raw: Mapping[str, Any]) -> Desk:
    """Build a desk from the mapping of its YAML file; ValueError for a missing part."""
    for key in ("company", "opening", "intents", "rules"):
        if key not in raw:
            raise ValueError(f"desk without {key!r}: it has {sorted(raw)}")
    intents = {name: _parse_intent(name, item) for name, item in raw["intents"].items()}
    quoted = {name: re.findall(r"'([^']+[.?!])'", text) for name, text in raw["rules"].items()}
    still_there, give_up = quoted["silence"]
    return Desk(
        raw["company"], raw["opening"], intents, quoted["unclear"][0], quoted["unclear_again"][0], still_there, give_up
    )


def speak_digits(digits: str) -> str:
    """'4271' -> 'four two seven one'."""
    return " ".join(DIGIT_WORDS[int(digit)] for digit in digits)


def phrasing(text: str, digits: str = "") -> str:
    """The wording of an utterance without its digits and case: what a split by phrasing must keep apart."""
    text = _DIGIT_RUN.sub("#", text) if digits else text
    return " ".join(re.sub(r"[^\w#' ]", " ", text.lower()).split())


def split_of(text: str, digits: str = "") -> str:
    """'train', 'validation' or 'test', fixed by a hash: 5 % of phrasings and of numbers each are held out.

    Wordings of one or two words always train: they are the whole of how people say yes, no and bye.
    """
    by_number = _hashed_split(digits) if digits else "train"
    wording = phrasing(text, digits)
    if by_number != "train" or len(wording.split()) <= 2:
        return by_number
    return _hashed_split(wording)


def _hashed_split(key: str) -> str:
    place = hashlib.sha256(key.encode()).digest()[0] * 100 // 256
    return "validation" if place < 5 else "test" if place < 10 else "train"


def _is_slot(text: str) -> bool:
    return "{" in text


def _parse_intent(name: str, item: Mapping[str, Any]) -> Intent:
    contexts = tuple(part.strip() for part in str(item.get("context", "")).split(" or ") if part.strip())
    return Intent(
        name,
        str(item.get("reply", "")),
        str(item.get("ask", "")),
        contexts,
        tuple((str(key), str(text)) for key, text in item.get("reply_by_first_digit", {}).items()),
        str(item.get("action", "")),
    )
