"""The duplex model: one causal transformer over the token grid, with heads for its text and its audio streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from s2s.models.ahead import Ahead
from s2s.models.depth import DepthConfig, DepthTransformer
from s2s.models.plan import Plan
from s2s.models.spelling import LETTERS, Spelling
from s2s.models.talker import Talker, TalkerState
from s2s.nn.transformer import Transformer, TransformerConfig, TransformerState
from s2s.streams import AGENT_TEXT, USER_TEXT, Stream, StreamLayout, TokenRing, dialogue_layout

SHORTEST = "talker.timing.shortest"


@dataclass(frozen=True)
class DuplexConfig:
    """The streams and the sizes of what reads and says them.

    `code_width` is the width of one codebook's embedding. Behind the first `spelling_layer` layers the caller's words
    are spelled in `spelling_pieces`, behind the first `wording_layer` in tokens (0: nowhere), see `models.spelling`. Of
    the spoken streams named in `unread` the backbone does not read back what it has said: a transcript that is right in
    training and often wrong in a call is better not believed, and the sound of a reply, which is that of one recording,
    gives away in training how the reply goes on. Those named in `untimed` are learned without times, so that a token
    which is written in several steps on end counts once; what has no times cannot be read back.
    With `ahead` a second head of the agent's text says which token comes next, whenever that may be: what is said and
    when are two questions then, see `models.step`. The first `plan_tokens` tokens of a reply are then known in the
    step of the first one, see `models.plan` (0: none). With a `talker` the agent's sound is made from its text and its
    own past alone, see `models.talker`; without, from what the backbone thinks. With
    `talker_keeps_time` the talker says when the next word of a reply is due, and `ahead` whether there is one.
    """

    layout: StreamLayout = field(default_factory=lambda: dialogue_layout(8, 1024, 512))
    backbone: TransformerConfig = field(default_factory=TransformerConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    code_width: int = 64
    spelling_layer: int = 0
    spelling_pieces: tuple[str, ...] = tuple(LETTERS)
    wording_layer: int = 0
    unread: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()
    ahead: bool = False
    plan_tokens: int = 0
    talker: TransformerConfig | None = None
    talker_keeps_time: bool = False

    def __post_init__(self) -> None:
        layers = self.backbone.num_layers
        for name in ("spelling_layer", "wording_layer"):
            if not 0 <= getattr(self, name) <= layers:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed is 0 to {layers}")
        if self.spelling_layer and self.spelling_layer == self.wording_layer:
            raise ValueError(f"spelling_layer and wording_layer are both {self.spelling_layer}, allowed is one each")
        spoken = [s.name for s in self.layout.side("speak")]
        texts = [s.name for s in self.layout.side("speak") if s.num_rows == 1]
        if not set(self.unread) <= set(spoken):
            raise ValueError(f"unread is {list(self.unread)}, allowed are {spoken}")
        if self.talker is None and not set(self.unread) <= set(texts):
            raise ValueError(f"unread is {list(self.unread)}, without a talker allowed are {texts}")
        if not set(self.untimed) <= set(self.unread) & set(texts):
            raise ValueError(f"untimed is {list(self.untimed)}, allowed are the texts that are unread")
        if self.plan_tokens not in (0, *range(2, 17)) or (self.plan_tokens and not self.ahead):
            raise ValueError(f"plan_tokens is {self.plan_tokens}, allowed is 0, and with ahead 2 to 16")
        if self.talker is not None and AGENT_TEXT not in set(texts) - set(self.untimed):
            raise ValueError(f"a talker needs a stream {AGENT_TEXT!r} with times, the texts are {texts}")
        if self.talker_keeps_time and (self.talker is None or not self.ahead):
            raise ValueError("talker_keeps_time is true, which needs a talker and ahead")
        if self.ahead and AGENT_TEXT not in set(texts) - set(self.untimed):
            raise ValueError(f"ahead needs a stream {AGENT_TEXT!r} with times, the texts are {texts}")


class AudioEmbedding(nn.Module):
    """The codes of one frame as one vector: a table per codebook, side by side, then a linear map."""

    def __init__(self, stream: Stream, code_width: int, width: int):
        super().__init__()
        self.table_size = stream.table_size
        self.codes = nn.Embedding(stream.num_rows * stream.table_size, code_width)
        self.out = nn.Linear(stream.num_rows * code_width, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, K, S] -> [B, S, D]."""
        offsets = torch.arange(ids.shape[1], device=ids.device)[:, None] * self.table_size
        return self.out(self.codes((ids + offsets).transpose(1, 2)).flatten(2))

    @torch.no_grad()
    def start_from(self, codebooks: Tensor) -> None:
        """Begin with a codec's own vectors [K, V, D'], D' = code_width, summed as the codec sums them.

        What two frames have in common is then visible from the first step on; otherwise it is learned token by token.
        """
        num_codebooks, size, width = codebooks.shape
        tables = self.codes.weight.view(num_codebooks, self.table_size, -1)
        tables.zero_()
        mean, scale = codebooks.mean(dim=1, keepdim=True), codebooks[0].std()
        tables[:, :size] = (codebooks - mean) / scale
        shared = torch.randn(self.out.out_features, width, device=codebooks.device) / width**0.5
        self.out.weight.copy_(shared.repeat(1, num_codebooks))


class DuplexModel(nn.Module):
    """grid [B, R, S] -> hidden [B, S, D]; then `text_logits` per text stream and `depth` for the agent's codes."""

    def __init__(self, config: DuplexConfig):
        super().__init__()
        self.config, self.layout = config, config.layout
        width = config.backbone.width
        self.embeddings = nn.ModuleDict()
        self.text_heads = nn.ModuleDict()
        for stream in config.layout.streams:
            if stream.num_rows > 1:
                self.embeddings[stream.name] = AudioEmbedding(stream, config.code_width, width)
                continue
            # Of a stream that is not read back only START and PAD are.
            size = stream.table_size - stream.vocab_size * (stream.name in config.unread)
            self.embeddings[stream.name] = table = nn.Embedding(size, width)
            nn.init.normal_(table.weight, std=0.5)
            if stream.side == "speak":
                self.text_heads[stream.name] = head = nn.Linear(width, stream.table_size, bias=False)
                nn.init.normal_(head.weight, std=0.02)
        self.ahead: nn.Linear | None = None
        if config.ahead:
            self.ahead = nn.Linear(width, config.layout.stream(AGENT_TEXT).table_size, bias=False)
            self.look_ahead()
        self.plan: Plan | None = None
        if config.plan_tokens:
            self.plan = Plan(width, config.layout.stream(AGENT_TEXT).vocab_size, config.plan_tokens)
        self.backbone = Transformer(config.backbone)
        self.spelling = Spelling(width, len(config.spelling_pieces) + 1) if config.spelling_layer else None
        self.wording: Spelling | None = None
        if config.wording_layer:
            self.wording = Spelling(width, config.layout.stream(USER_TEXT).table_size)
            self.read_wording()
        audio = [s for s in config.layout.side("speak") if s.num_rows > 1]
        if len(audio) > 1:
            raise ValueError(f"at most one audio stream can be spoken, got {[s.name for s in audio]}")
        self.audio_stream = audio[0] if audio else None
        self.depth: DepthTransformer | None = None
        self.talker: Talker | None = None
        if audio:
            stream, inner = audio[0], width
            if config.talker is not None:
                text_size = config.layout.stream(AGENT_TEXT).vocab_size if config.talker_keeps_time else None
                self.talker = Talker(config.talker, width, text_size)
                inner = config.talker.width
            self.depth = DepthTransformer(config.depth, inner, stream.num_rows, stream.vocab_size, stream.table_size)

    @property
    def text_streams(self) -> tuple[Stream, ...]:
        """The spoken streams of one row, in layout order."""
        return tuple(s for s in self.layout.side("speak") if s.name in self.text_heads)

    def read_wording(self) -> None:
        """Make what the inner layer hears legible to the head that writes it down, and to all layers between."""
        head = self.text_heads[USER_TEXT]
        assert isinstance(head, nn.Linear) and self.wording is not None
        self.wording.read_as(head.weight, self.layout.stream(USER_TEXT).pad_id)

    @torch.no_grad()
    def look_ahead(self) -> None:
        """Let the head of what comes next begin as that of what comes now."""
        head = self.text_heads[AGENT_TEXT]
        assert isinstance(head, nn.Linear) and self.ahead is not None
        self.ahead.weight.copy_(head.weight)

    def init_state(self, rows: int) -> TransformerState:
        return self.backbone.init_state(rows)

    def forward(self, grid: Tensor, state: TransformerState | None = None, read: Tensor | None = None) -> Tensor:
        """Args:
        grid: the model's inputs [B, R, S], see `streams.model_inputs`.
        read: tokens of the caller [B, S] in place of those that the inner layers hear, negative where they may hear.
        """
        self.check(grid)
        parts = []
        for stream in self.layout.streams:
            ids = grid[:, self.layout.rows(stream.name)]
            if stream.name in self.config.unread:
                ids = torch.where(ids == stream.start_id, stream.start_id, stream.pad_id)
                ids = ids - stream.vocab_size * (stream.num_rows == 1)
            parts.append(self.embeddings[stream.name](ids if stream.num_rows > 1 else ids[:, 0]))
        after: dict[int, Callable[[Tensor], Tensor]] = {}
        if self.spelling is not None:
            after[self.config.spelling_layer] = self.spelling
        if self.wording is not None:
            after[self.config.wording_layer] = partial(self.wording, given=read)
        return self.backbone(torch.stack(parts).sum(dim=0), state, after)

    def check(self, grid: Tensor) -> None:
        """Raise ValueError for what is no grid of this model [B, R, S]."""
        if grid.dim() != 3 or grid.shape[1] != self.layout.num_rows:
            raise ValueError(f"grid has the shape {list(grid.shape)}, expected [B, {self.layout.num_rows}, S]")

    def talk(self, text: Tensor, codes: Tensor, state: TalkerState | None = None) -> Tensor:
        """What the talker makes of the agent's tokens of each step [B, S] and its codes of the step before [B, K, S],
        -> [B, S, W] for `depth`."""
        assert self.talker is not None and self.audio_stream is not None
        words, sound = self.embeddings[AGENT_TEXT](text), self.embeddings[self.audio_stream.name](codes)
        out: Tensor = self.talker(words, sound, state)
        return out

    def voice(self, hidden: Tensor, text: Tensor, codes: Tensor, state: TalkerState) -> Tensor:
        """What a step's sound is made from [B, W]: hidden [B, D], the agent's token [B] and codes of the step before
        [B, K].

        The talker takes note of whether it has to break off and of how far the token is out.
        """
        assert self.talker is not None
        self.talker.break_off(hidden, text < self.layout.stream(AGENT_TEXT).vocab_size, state)
        voice = self.talk(text[:, None], codes[..., None], state)[:, 0]
        self.talker.listen(voice, text, state)
        return voice

    def ring(self) -> TokenRing:
        """What keeps the tokens between two steps."""
        return TokenRing(self.layout)

    def foresight(self) -> Ahead | None:
        """What decides which token of the agent comes next, of a model that looks `ahead`."""
        if self.ahead is None:
            return None  # nor need there be any text
        return Ahead(self.ahead, self.layout.stream(AGENT_TEXT).vocab_size, self.plan, self.embeddings[AGENT_TEXT])

    def text_logits(self, hidden: Tensor) -> dict[str, Tensor]:
        """hidden [..., D] -> name -> logits [..., V + 2]."""
        return {name: head(hidden) for name, head in self.text_heads.items()}

    def as_stored(self, own: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Tensors like this model's `own`, in the shapes of a file that has so many values of each, see `adapted`."""
        stored, width = dict(own), self.config.backbone.width
        for name in self._unread():
            if name in stored and sizes.get(name, 0) > stored[name].numel():
                stored[name] = stored[name].new_empty(sizes[name] // width, width)
        if SHORTEST in stored and SHORTEST not in sizes:
            del stored[SHORTEST]
        return stored

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of an older checkpoint as this model has them.

        A stream that is not read had a whole table once, and a talker that keeps time did not know how long words take.
        """
        unread = self._unread()
        adapted = {name: weight[-2:] if name in unread else weight for name, weight in weights.items()}
        if self.talker is not None and self.talker.timing is not None:
            adapted.setdefault(SHORTEST, torch.zeros_like(self.talker.timing.shortest))
        return adapted

    def _unread(self) -> set[str]:
        """The names of the tables of START and PAD alone."""
        return {f"embeddings.{name}.weight" for name in self.config.unread if name in self.text_heads}

    @torch.no_grad()
    def start_from_codebooks(self, codebooks: Tensor) -> None:
        """Begin all audio embeddings with a codec's vectors [K, V, code_width]."""
        for stream in self.layout.streams:
            embedding = self.embeddings[stream.name]
            if isinstance(embedding, AudioEmbedding):
                embedding.start_from(codebooks)
