"""The learning rate rises to its peak, falls to its final share and stays there."""

import pytest

from s2s.train.schedule import warmup_cosine


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (9, 1.0), (10, 1.0), (60, 0.525), (110, 0.05), (1000, 0.05)])
def test_share_of_the_peak(step, share):
    assert warmup_cosine(step, 10, 110, 0.05) == pytest.approx(share)
