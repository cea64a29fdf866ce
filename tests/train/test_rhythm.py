"""Words at other times: nothing is lost, other replies keep their distance, and sound keeps its time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from s2s.models.ahead import REPLY_STEPS
from s2s.text import ByteTokenizer
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from s2s.train.rhythm import LONGEST, repeats, unsteady
from tests.tiny import random_tracks, tiny_layout, tiny_model

PAD = 99
CALLER = [3, 12, 80]
AGENT = [20, 22, 28, 42, 62, 95]  # two replies: 42 to 62 is within one, 62 to 95 is not
SIZE = 110


def row() -> tuple[Tensor, Tensor]:
    """Tokens of the agent and the caller [200, S], the same in each row, that tell their steps."""
    agent, caller = torch.full((200, SIZE), PAD), torch.full((200, SIZE), PAD)
    agent[:, AGENT], caller[:, CALLER] = torch.tensor(AGENT), torch.tensor(CALLER)
    return agent, caller


def changed() -> tuple[Tensor, Tensor, Tensor]:
    """Both texts in other rhythms [200, S] and the lengths [200], of rows whose last steps count for nothing."""
    torch.manual_seed(0)
    agent, caller = row()
    counts = repeats(agent < PAD, caller < PAD)
    found, lengths = unsteady({"a": agent[:, None], "c": caller[:, None]}, torch.full((200,), SIZE - 5), counts)
    return found["a"][:, 0], found["c"][:, 0], lengths


def test_no_word_is_lost_or_said_twice() -> None:
    agent, caller, _ = changed()
    for text, words in ((agent, AGENT[:-1]), (caller, CALLER[:-1])):
        for said in text:
            assert [token for token in said.tolist() if token < PAD][: len(words)] == words


def test_only_the_time_between_two_words_of_a_reply_changes() -> None:
    agent, caller, lengths = changed()
    at = {token: (agent == token).long().argmax(dim=1) for token in AGENT[:-1]}
    gaps = {(a, b): at[b] - at[a] for a, b in pairwise(AGENT[:-1])}
    assert (at[20] == 20).all() and ((caller == 12).long().argmax(dim=1) == 12).all(), "it begins when it did"
    assert gaps[22, 28].unique().tolist()[0] < 5 and gaps[22, 28].max() > 7
    assert abs(gaps[22, 28].float().mean() - 6) < 0.5, "slower as often as faster"
    assert gaps[28, 42].max() > LONGEST and gaps[42, 62].max() == 20 and gaps[42, 62].min() < 18
    assert max(int(gap.max()) for gap in gaps.values()) <= REPLY_STEPS
    # What lies behind a reply is as long as it was, so rows are longer by what their replies are.
    later = at[62] - 62
    behind = (agent == 95).long().argmax(dim=1)
    there = (agent == 95).any(dim=1)
    assert torch.equal(behind[there], (95 + later)[there]) and torch.equal(lengths, (SIZE - 5 + later).clamp(max=SIZE))


def test_what_is_heard_keeps_its_time() -> None:
    layout = tiny_layout()
    config = replace(tiny_model(layout, ahead=True).config, wording_layer=1)
    learner = DuplexModule(DuplexTrainConfig(config, unsteady_share=1.0), ByteTokenizer()).train()
    tracks, lengths = random_tracks(layout, 3, SIZE), torch.full((3,), SIZE)
    tracks["agent_text"], tracks["user_text"] = (text[:3, None] % 19 for text in row())
    tracks["agent_text"][tracks["agent_text"] == PAD % 19] = layout.stream("agent_text").pad_id
    tracks["user_text"][tracks["user_text"] == PAD % 19] = layout.stream("user_text").pad_id
    found, _ = learner._in_other_rhythms(tracks, lengths, torch.tensor([True, False, True]))
    same = [torch.equal(found["agent_text"][row], tracks["agent_text"][row]) for row in range(3)]
    assert same == [False, True, False]
    assert torch.equal(found["agent"][1], tracks["agent"][1])
