"""Transport: what a call's protocol must do, and the words it shares with the bridge. No audio logic, no network.

A transport turns the messages of its protocol into `Incoming` and `Outgoing` into messages. Audio passes through it as
bytes of a `WireFormat`; the bridge makes samples of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from s2s.gateway.formats import WireFormat
from s2s.gateway.turns import TurnDetection


@dataclass(frozen=True)
class CallerAudio:
    """What the caller says, in the input format."""

    data: bytes


@dataclass(frozen=True)
class Configure:
    """How audio travels from now on, and who decides where the caller's turns end (None: the client)."""

    input_format: WireFormat = field(default_factory=WireFormat)
    output_format: WireFormat = field(default_factory=WireFormat)
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)


@dataclass(frozen=True)
class CommitTurn:
    """The client ends the caller's turn."""


@dataclass(frozen=True)
class ClearInput:
    """The client takes back the audio of this turn; what the model has heard stays heard."""


@dataclass(frozen=True)
class Mute:
    """The model hears silence instead of the caller, or the caller again."""

    muted: bool


@dataclass(frozen=True)
class RequestAnswer:
    """The client wants the agent to speak now."""


@dataclass(frozen=True)
class CancelAnswer:
    """The client wants the agent to stop."""


@dataclass(frozen=True)
class Hangup:
    """The client ends the call."""


Incoming = CallerAudio | Configure | CommitTurn | ClearInput | Mute | RequestAnswer | CancelAnswer | Hangup


@dataclass(frozen=True)
class CallerStarted:
    """The caller begins to speak; milliseconds of audio received."""

    at_ms: int


@dataclass(frozen=True)
class CallerStopped:
    """The caller has been silent for a while; the turn ended at `at_ms` of the audio received."""

    at_ms: int


@dataclass(frozen=True)
class TurnCommitted:
    """A turn of the caller is complete, `duration_ms` long; with 0 there was nothing to commit."""

    duration_ms: int


@dataclass(frozen=True)
class CallerText:
    """What the model understood, at a time of the session's output clock."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class CallerTextDone:
    """No more text of the last turn is expected."""


@dataclass(frozen=True)
class AnswerStarted:
    """The agent begins to speak."""


@dataclass(frozen=True)
class AgentAudio:
    """What the agent says, in the output format. `answering`: within an answer, not the silence between two."""

    data: bytes
    start_ms: int
    end_ms: int
    answering: bool


@dataclass(frozen=True)
class AgentText:
    """Text of what the agent says, `offset_ms` after its answer began."""

    text: str
    start_ms: int
    end_ms: int
    offset_ms: int


@dataclass(frozen=True)
class AnswerEnded:
    """The agent has finished, or was stopped by the caller or the client after `played_ms` of its answer."""

    reason: Literal["completed", "turn_detected", "client_cancelled"]
    played_ms: int


@dataclass(frozen=True)
class Action:
    """The agent does something (such as a hand-off) that the client has to carry out.

    It is told when all that the agent said before has been heard; `at_ms` is when the agent decided it.
    """

    name: str
    at_ms: int


@dataclass(frozen=True)
class Problem:
    """Something the client did could not be done; the call goes on."""

    code: str
    message: str


@dataclass(frozen=True)
class CallEnded:
    """The session is over though nobody hung up."""

    reason: Literal["expired", "failed", "server_shutdown", "input_flood", "agent_hangup"]
    message: str = ""


Outgoing = (
    CallerStarted
    | CallerStopped
    | TurnCommitted
    | CallerText
    | CallerTextDone
    | AnswerStarted
    | AgentAudio
    | AgentText
    | AnswerEnded
    | Action
    | Problem
    | CallEnded
)


class Transport(Protocol):
    """One call's protocol. The methods are called from one event loop, `send` by one task at a time."""

    @property
    def continuous(self) -> bool:
        """Whether the silence between answers is sent too."""
        ...

    async def recv(self) -> Incoming | None:
        """The next thing the client wants; None when it is gone. Mistakes of the client are answered inside."""
        ...

    async def send(self, event: Outgoing) -> None:
        """Tell the client. Raises ConnectionError when it is gone or does not read."""
        ...

    async def clear(self) -> None:
        """Drop audio that was sent and not yet played, as far as the protocol can."""
        ...

    async def close(self, ended: CallEnded | None = None) -> None:
        """End the connection; may be called again."""
        ...
