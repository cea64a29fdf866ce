"""`s2s talk`: a call to a server from the terminal, with a microphone or with a recording."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from s2s.cli.common import check_writable, console, read_channel, user_errors

if TYPE_CHECKING:
    from s2s.gateway.client import LiveClient, Received
    from s2s.gateway.talking import Heard, TalkConfig

FILE_HELP = "Say this recording, at the pace of time, instead of using the microphone."
OUT_HELP = "Write both voices as they were heard: caller left, agent right."
DEVICE_HELP = "Of the sound card, a name or number; MICROPHONE,LOUDSPEAKER for two."
WAIT_HELP = "The agent lets you speak first. Default: as the server likes it."
QUIET_HELP = "With --file: seconds of silence after it that end the call."
_RATE: Literal[24000] = 24000
_PAUSE_S = 0.8  # without a word of one side, after which the other's may be written
_LONG_PAUSE_S = 2.0  # after which a side goes on in a new line


def talk(
    url: Annotated[str, typer.Option(help="The server; any of the GPT-Live protocol.")] = "ws://127.0.0.1:8080",
    file: Annotated[Path | None, typer.Option(metavar="IN.wav", help=FILE_HELP)] = None,
    out: Annotated[Path | None, typer.Option(metavar="OUT.wav", help=OUT_HELP)] = None,
    token: Annotated[str | None, typer.Option(help="For the server. Other users see it; see next.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="A file that holds the token.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    quiet: Annotated[float, typer.Option(help=QUIET_HELP)] = 3.0,
    wait: Annotated[bool, typer.Option("--wait", help=WAIT_HELP)] = False,
    consent: Annotated[bool, typer.Option("--consent", help="Agree to be recorded by the server.")] = False,
) -> None:
    """Talk to a server until Ctrl-C, or say a recording to it. Words appear as they are understood and spoken.

    Wear a headset: there is no echo cancellation here, and over loudspeakers the agent hears itself.
    """
    with user_errors():
        from s2s.cli.serve import read_token
        from s2s.gateway.client import LiveClient
        from s2s.gateway.talking import TalkConfig, run_call

        opening = False if wait else None
        client = LiveClient(url, read_token(token, token_file), rate=_RATE, store=consent, opening=opening)
        terminal = Terminal(file, out, device, TalkConfig(quiet_s=quiet))
        terminal.finish(run_call(client, terminal.call))


class Terminal:
    """One call at a terminal: checks what it was given before anything is opened, prints words, writes the file."""

    def __init__(self, file: Path | None, out: Path | None, device: str | None, config: TalkConfig):
        from s2s.audio.card import check_devices

        if out is not None:
            check_writable(out)
        if file is None:
            check_devices(_RATE, device)
        self._recording = None if file is None else read_channel(file, "left")
        self._out, self._device, self._config = out, device, config
        self._lines = Lines()

    async def call(self, client: LiveClient) -> Heard:
        """Hold the call; the client is open."""
        from s2s.audio.pcm import float_to_int16
        from s2s.audio.resample import resample
        from s2s.gateway.talking import converse, play_recording

        if self._recording is None:
            console.print(f"s2s: talking to {client.session.get('model', 'the server')}, Ctrl-C hangs up")
            return await converse(client, self._lines.show, self._device, self._config)
        wav, rate = self._recording
        pcm = float_to_int16(resample(wav, rate, client.rate))
        return await play_recording(client, pcm, self._lines.show, self._config)

    def finish(self, heard: Heard) -> None:
        """Say how it went."""
        from s2s.audio.pcm import int16_to_float
        from s2s.evaluation.timeline import answer_gap, write_stereo

        self._lines.end()
        caller, agent = int16_to_float(heard.caller), int16_to_float(heard.agent)
        rate = heard.sample_rate
        gap = answer_gap(caller, agent, rate)
        answered = "" if gap is None else f", answer {1000 * (gap.end - gap.start) / rate:.0f} ms after the last sound"
        gaps = f", {heard.underruns} gaps in the sound" if heard.underruns else ""
        console.print(f"s2s: {len(caller) / rate:.1f} s{answered}{gaps}")
        if self._out is not None:
            write_stereo(self._out, caller, agent, rate)
            console.print(f"wrote {self._out}")


class Lines:
    """Words of both sides as they come: a line per turn on standard output, with the time of its first word.

    Where both speak at once, one line is written at a time: the other side's words wait for a pause of this one.
    """

    def __init__(self) -> None:
        self._side = ""  # whose line is being written
        self._last_s = 0.0  # when it last grew
        self._waiting: dict[str, tuple[float, str]] = {}  # by side: when its words began, and the words

    def show(self, received: Received, at_s: float) -> None:
        """Print what an event says, `at_s` seconds into the call."""
        event = received.event
        if received.type in ("session.input_transcript.delta", "session.output_transcript.delta"):
            self._add("caller" if "input" in received.type else "agent", str(event.get("delta", "")), at_s)
        elif received.type == "s2s.answer_ended" and event.get("reason") == "turn_detected":
            self._add("agent", " -- (interrupted)", at_s)
        elif received.type == "session.delegation.created":
            self._note(f"action: {event.get('delegation', {}).get('name', 'unnamed')}")
        elif received.type == "error":
            self._note(f"the server says: {event.get('error', {}).get('message', 'error')}")
        elif self._waiting and at_s - self._last_s > _PAUSE_S:
            self._close()

    def end(self) -> None:
        """Finish what is open."""
        while self._side or self._waiting:
            self._close()
        sys.stdout.flush()

    def _add(self, side: str, text: str, at_s: float) -> None:
        pause_s = _LONG_PAUSE_S if side == self._side else _PAUSE_S
        if self._side and at_s - self._last_s > pause_s:
            self._close()
        if self._side not in ("", side):
            began_s, before = self._waiting.get(side, (at_s, ""))
            self._waiting[side] = (began_s, before + text)
            return
        if not self._side:
            self._open(side, at_s)
            text = text.lstrip()
        sys.stdout.write(text)
        sys.stdout.flush()
        self._last_s = at_s

    def _open(self, side: str, at_s: float) -> None:
        sys.stdout.write(f"{at_s:6.1f} s  {side:6}  ")
        self._side, self._last_s = side, at_s

    def _close(self) -> None:
        """End the line, and write the one that waits."""
        if self._side:
            sys.stdout.write("\n")
        self._side = ""
        if self._waiting:
            side, (began_s, text) = self._waiting.popitem()
            last_s = self._last_s
            self._open(side, began_s)
            sys.stdout.write(text.strip())
            self._last_s = max(last_s, began_s)

    def _note(self, text: str) -> None:
        self.end()
        console.print(f"s2s: {text}")
