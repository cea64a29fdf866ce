"""What a duplex model is trained for: the weights of its losses, and how its inputs are disturbed."""

from __future__ import annotations

from dataclasses import dataclass, field

from s2s.models.duplex import DuplexConfig


@dataclass(frozen=True)
class DuplexTrainConfig:
    """How a duplex model is trained.

    The audio loss is computed on `speaking_share` of the steps where the agent speaks and on `silent_share` of the
    others, which count `silent_weight` each; the steps drawn stand for those left out. With an `audio_weight` of 0 a
    talker's voice stays as it is, which needs nothing of the backbone. `pad_weight` is what a PAD of a text stream
    counts beside a word. `history_noise` is the share of the model's own past codes and words that are
    replaced by random ones, so that it learns to live with its own errors. In a `hidden_transcripts` share of rows it
    sees nothing at all of what it has written down of the caller, so that its replies follow what it heard; in a
    `hidden_voice` share nothing of its own past codes, so that its words follow its words. Of what is heard, spans that
    make up `masked_share` of the steps are blanked, and in a `level_dropout` share of rows the codebooks from some
    level on.
    In a `dictated_share` of rows the caller is another row's, who has nothing to do with what the agent says: the loss
    of the agent's text is left out there, and its sound has only this text to follow. Without such rows the two agree
    in all of training, and what is said need not be what is written. In half of them, where the codec's silence is
    known, nobody calls at all, as in `s2s speak`.
    `ahead_weight` is that of the agent's next token, for models that look `ahead`, see `train.ahead`; `plan_weight` is
    that of how its replies begin, for models that plan, see `train.plan`.
    `spelling_weight` and `wording_weight` are those of the losses of spelling in pieces and in tokens, for models that
    spell what the caller says. A `read_share` of rows is read instead of heard, see `train.reading`.
    With `replies_only` hearing and speaking stay as they are: only the layers behind `wording_layer` are trained, and
    only on the agent's text. Which reply follows from which words takes many more calls than their sound does, and
    words cost a quarter of it.
    With `talker_only` it is the other way round: only the talker and the depth transformer are trained, on the agent's
    tracks alone. In a `spliced_share` of batches its words stand in another order, see `train.talking`; in a
    `shifted_share` of rows its text comes a step early or late; a `hidden_share` of its past codes is hidden; in an
    `own_share` it hears what it would have said itself.
    Where the talker keeps time the words of an `unsteady_share` of the rows that are only written come at other times,
    see `train.rhythm`.
    `stop_weight` is that of the loss of where it breaks off, `timing_weight` that of when its next word comes.
    Gradients are clipped to `clip_norm`; after `max_skipped_steps` steps with gradients that are not finite training
    stops.
    """

    model: DuplexConfig = field(default_factory=DuplexConfig)
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    total_steps: int = 5000
    final_ratio: float = 0.05
    user_text_weight: float = 1.0
    agent_text_weight: float = 1.0
    pad_weight: float = 0.5
    audio_weight: float = 1.0
    first_codebook_weight: float = 4.0
    speaking_share: float = 0.5
    silent_share: float = 0.1
    silent_weight: float = 0.3
    history_noise: float = 0.02
    hidden_transcripts: float = 0.4
    hidden_voice: float = 0.3
    clip_norm: float = 1.0
    masked_share: float = 0.12
    level_dropout: float = 0.3
    spelling_weight: float = 0.5
    wording_weight: float = 0.5
    ahead_weight: float = 1.0
    plan_weight: float = 1.0
    read_share: float = 0.0
    dictated_share: float = 0.0
    replies_only: bool = False
    talker_only: bool = False
    spliced_share: float = 0.3
    shifted_share: float = 0.3
    hidden_share: float = 0.1
    own_share: float = 0.0
    unsteady_share: float = 0.0
    stop_weight: float = 0.1
    timing_weight: float = 0.3
    max_skipped_steps: int = 20
