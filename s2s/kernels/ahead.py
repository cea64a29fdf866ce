"""What the agent writes next and when, for one new step of B rows: `s2s.models.ahead` as one kernel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from s2s.kernels.functions import exp, gelu
from s2s.kernels.products import ONLY, Matrices, compiled, product


class Plan(NamedTuple):
    """The weights: `inputs` of what the reply began with and of its last token; place [N, D] of N tokens.

    reach: steps without a token after which the next one begins another reply.
    """

    inputs: Matrices
    place: Any
    out: Matrices
    reach: int


class Ahead(NamedTuple):
    """words [V, D]: embeddings of tokens; head: says which comes next. token and joined [V]: what each adds to the
    logit of its time, and whether it goes on with a word. The others are constants of `s2s.models`."""

    words: Any
    head: Matrices
    plan: Plan
    token: Any
    joined: Any
    reply_steps: int
    doubt: float
    doubt_kept: float
    even: float
    certain: float


@compiled
def ask(hidden: Any, said: Any, last: Any, plan: Plan) -> Any:
    """As `s2s.models.plan.Plan`: hidden [B, D], `said` [B] tokens, the last one embedded [B, D] -> [B, D]."""
    rows, width = hidden.shape
    sums = np.empty((3, rows, plan.out.scales.shape[1]), np.float32)
    for which in range(2):
        product(last if which else hidden, plan.inputs, which, sums[which])
    x = (sums[0] + sums[1])[:, :width].copy()
    for row in range(rows):
        x[row] += plan.place[said[row]]
    gelu(x)
    product(x, plan.out, ONLY, sums[2])
    return hidden + sums[2][:, :width]


@compiled
def _largest(x: Any, size: int) -> Any:
    most = x[0]
    for i in range(1, size):
        most = max(most, x[i])
    return most


@compiled
def _left_to_chance(logits: Any, size: int) -> Any:
    """Nats of the chance that none of the first `size` tokens comes."""
    most, total, silent = _largest(logits, len(logits)), np.float32(0), np.float32(0)
    for i in range(len(logits)):
        likely = exp(logits[i] - most)
        total += likely
        if i >= size:
            silent += likely
    return -math.log(max(silent / total, np.float32(1e-30)))


@compiled
def decide(
    hidden: Any, logits: Any, kept: Any, left: Any, doubt: Any, begun: Any, said: Any, last: Any, idle: Any,
    stopped: Any, out: Any, waited: Any, rest: Any, ahead: Ahead,
) -> Any:  # fmt: skip
    """As `s2s.models.ahead.Ahead.decide` with a plan and a talker's clock: hidden [B, D], logits [B, V + 2] -> as they.

    kept [B, V + 2], left, doubt [B]: its state; begun [B, D], said, last, idle [B]: of the plan; stopped, out, waited,
    rest [B]: of the talker. kept, doubt and waited are updated.
    """
    rows, width = logits.shape
    size, plan, planned = width - 2, ahead.plan, len(ahead.plan.place)
    now = np.empty((rows, ahead.head.scales.shape[1]), np.float32)
    product(hidden, ahead.head, ONLY, now)
    decided = np.empty_like(logits)
    for row in range(rows):
        fresh = left[row] == ahead.reply_steps
        if fresh:
            kept[row] = now[row, :width]
        more = _largest(kept[row], size) > kept[row, size + 1]
        stands = more and left[row] > 0 and not stopped[row]
        which = kept[row].copy() if stands else now[row, :width].copy()
        if 0 < said[row] < planned and idle[row] < plan.reach:
            one = slice(row, row + 1)
            asked = ask(begun[one], said[one], ahead.words[last[row] : last[row] + 1], plan)
            product(asked, ahead.head, ONLY, now[one])  # of this row it is not needed any more
            which[:] = now[row, :width]
        most, shift, token = _largest(which, size), _largest(logits[row], size), 0
        for i in range(size):
            decided[row, i] = which[i] - most + shift
        for i in range(1, size):
            if decided[row, i] > decided[row, token]:
                token = i
        logit = out[row] + ahead.token[token]
        nats = logit if logit > 20 else math.log1p(math.exp(logit))
        waited[row] = (np.float32(0) if fresh else waited[row]) + (np.float32(nats) if rest[row] <= 0 else 0)
        due = waited[row] > ahead.even or ahead.joined[token] > 0 or left[row] == 1
        doubt[row] = 0 if stands else ahead.doubt_kept * doubt[row] + _left_to_chance(logits[row], size)
        certain = 0.0
        if stands:
            certain = -ahead.certain if due else ahead.certain
        elif doubt[row] > ahead.doubt:
            certain = -ahead.certain
        for i in range(size, width):
            decided[row, i] = logits[row, i] + certain
    return decided


@compiled
def follow(
    ids: Any, hidden: Any, left: Any, doubt: Any, begun: Any, said: Any, last: Any, idle: Any, ahead: Ahead
) -> None:
    """As `s2s.models.ahead.Ahead.follow` with a plan: ids [B] were written, hidden [B, D] was thought."""
    planned, reach = len(ahead.plan.place), ahead.plan.reach
    for row in range(len(ids)):
        if ids[row] >= len(ahead.joined):
            left[row], idle[row] = max(left[row] - 1, 0), idle[row] + 1
            continue
        if idle[row] >= reach:
            begun[row], said[row] = hidden[row], 1
        elif 0 < said[row] < planned:
            said[row] += 1
        left[row], doubt[row], last[row], idle[row] = ahead.reply_steps, 0, ids[row], 0
