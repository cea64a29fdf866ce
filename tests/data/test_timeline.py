"""Two tracks in the making: placing speech, frame boundaries, cutting the agent off."""

import numpy as np

from s2s.data.schema import Word
from s2s.data.timeline import Timeline


def test_agent_fades_out_and_its_later_words_are_gone() -> None:
    timeline = Timeline(24000, 24000, 960)
    words = [Word("one", 0.0, 0.2), Word("two", 0.2, 0.5), Word("three", 0.5, 0.9)]
    timeline.say(np.ones(21600, np.float32), words, 960)
    timeline.stop_agent(9600, 960)
    assert timeline.agent[9599] < 0.01
    assert timeline.agent[8640:9600].min() >= 0
    np.testing.assert_array_equal(timeline.agent[960:8640], 1)
    np.testing.assert_array_equal(timeline.agent[9600:], 0)
    assert [(word.text, round(word.end_s, 3)) for word in timeline.agent_words] == [("one", 0.24), ("two", 0.4)]


def test_tracks_end_on_a_frame_boundary_with_the_words_in_order() -> None:
    timeline = Timeline(24000, 24000, 960)
    timeline.hear(np.ones(100, np.float32), [Word("late", 0.0, 0.004)], 5000)
    timeline.hear(np.ones(100, np.float32), [Word("early", 0.0, 0.004)], 1000)
    timeline.finish(5200)
    assert len(timeline.user) == len(timeline.agent) == 5760
    assert [word.text for word in timeline.user_words] == ["early", "late"]
    assert timeline.on_frame(960) == 960
    assert timeline.on_frame(961) == 1920
