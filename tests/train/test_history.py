"""What training hides from a model of its own past: errors of a live call must not be news to it."""

import torch

from s2s.models.duplex import DuplexConfig
from s2s.streams import dialogue_layout
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from tests.tiny import tiny_model

LAYOUT = dialogue_layout(2, 16, 32)


def hidden(**shares: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [B, R, S] of words and codes at every step, before and after."""
    config: DuplexConfig = tiny_model(LAYOUT).config
    module = DuplexModule(DuplexTrainConfig(config, **({"history_noise": 0.0} | shares)))
    rows = [torch.randint(s.vocab_size, (64, s.num_rows, 9)) for s in LAYOUT.streams]
    inputs = torch.cat(rows, dim=1)
    return inputs, module._with_noise(inputs)


def changed(before: torch.Tensor, after: torch.Tensor, name: str) -> torch.Tensor:
    rows = LAYOUT.rows(name)
    return before[:, rows] != after[:, rows]


def test_transcripts_and_voice_are_hidden_in_whole_rows() -> None:
    torch.manual_seed(0)
    before, after = hidden(hidden_transcripts=0.5, hidden_voice=0.25)
    for name, share in (("user_text", 0.5), ("agent", 0.25)):
        moved = changed(before, after, name)
        whole = moved.flatten(1).all(dim=1)
        assert torch.equal(whole, moved.flatten(1).any(dim=1))
        assert abs(whole.float().mean() - share) < 0.2
        assert (after[:, LAYOUT.rows(name)][moved] == LAYOUT.stream(name).pad_id).all()
    assert not changed(before, after, "user").any() and not changed(before, after, "agent_text").any()


def test_noise_touches_everything_said_and_nothing_heard() -> None:
    torch.manual_seed(0)
    before, after = hidden(history_noise=0.5, hidden_transcripts=0.0, hidden_voice=0.0)
    assert not changed(before, after, "user").any()
    for name in ("user_text", "agent_text", "agent"):
        assert 0.3 < changed(before, after, name).float().mean() < 0.6


def test_dictated_rows_hear_the_caller_of_the_row_before() -> None:
    module = DuplexModule(DuplexTrainConfig(tiny_model(LAYOUT).config))
    tracks = {s.name: torch.randint(s.vocab_size, (3, s.num_rows, 9)) for s in LAYOUT.streams}
    lengths = torch.tensor([9, 4, 9])
    mixed = module._with_other_callers(tracks, torch.tensor([False, True, True]), lengths)
    for name in ("agent", "agent_text"):
        assert torch.equal(mixed[name], tracks[name])
    for name in ("user", "user_text"):
        assert torch.equal(mixed[name][0], tracks[name][0])
        assert torch.equal(mixed[name][1, :, :4], tracks[name][0, :, :4])
        assert (mixed[name][1, :, 4:] == LAYOUT.stream(name).pad_id).all()
        assert torch.equal(mixed[name][2], tracks[name][1])


def test_what_a_dictated_agent_writes_is_not_to_be_learned() -> None:
    torch.manual_seed(0)
    config = DuplexTrainConfig(tiny_model(LAYOUT).config, dictated_share=1.0)
    module = DuplexModule(config)
    batch = {s.name: torch.randint(s.vocab_size, (2, s.num_rows, 9)) for s in LAYOUT.streams}
    batch |= {"agent_active": torch.ones(2, 9, dtype=torch.bool), "lengths": torch.tensor([9, 9])}
    parts = module.train().losses(batch)
    assert parts["agent_text"] == 0 and parts["agent_first"] > 0
    assert module.eval().losses(batch)["agent_text"] > 0


def test_half_of_the_dictated_agents_speak_to_nobody() -> None:
    torch.manual_seed(0)
    config = DuplexTrainConfig(tiny_model(LAYOUT).config, dictated_share=1.0, masked_share=0.0, level_dropout=0.0)
    module = DuplexModule(config).train()
    module.silence = torch.tensor([3, 5])
    seen: list[torch.Tensor] = []
    module.model.register_forward_pre_hook(lambda model, args: seen.append(args[0]))
    batch = {s.name: torch.randint(6, 16, (40, s.num_rows, 9)) for s in LAYOUT.streams}
    unspoken = torch.arange(40) < 10
    batch["agent"][unspoken] = LAYOUT.stream("agent").pad_id
    batch |= {"agent_active": torch.ones(40, 9, dtype=torch.bool), "lengths": torch.full((40,), 9)}
    module.losses(batch | {"waits": torch.zeros(40, dtype=torch.bool)})
    heard = seen[0][:, LAYOUT.rows("user"), 1:]
    alone = (heard == module.silence[:, None]).flatten(1).all(dim=1)
    assert not alone[unspoken].any() and 0.25 < alone[~unspoken].float().mean() < 0.75
    assert (seen[0][alone, LAYOUT.rows("user_text").start] >= LAYOUT.stream("user_text").vocab_size).all()
    first = seen[0][:, LAYOUT.rows("agent_text").start, 0]
    waiting, opening = first[alone].unique(), first[~alone].unique()
    assert len(waiting) == len(opening) == 1 and waiting != opening, "who is alone waits, in order to say what is given"
