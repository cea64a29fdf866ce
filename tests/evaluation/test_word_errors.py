import pytest

pytest.importorskip("whisper_normalizer")
pytest.importorskip("jiwer")

from s2s.evaluation.word_errors import WordErrors, count_errors, normalise, word_error_rate


@pytest.mark.parametrize(
    "text",
    [
        "Parcel 4271.",
        "parcel four two seven one",
        "Parcel forty-two, seventy-one!",
        "parcel 4-2-7-1",
        "parcel 4, 2, 7, 1",
    ],
)
def test_every_way_to_write_a_number_is_the_same_words(text: str) -> None:
    assert normalise(text) == "parcel four two seven one"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("We're open 8-6, Monday.", "we are open eight to six monday"),
        ("It costs $5.", "it costs five dollars"),
        ("up to $100", "up to one hundred dollars"),
        ("12 Mill Street", "twelve mill street"),
        ("Um, yes.", "yes"),
        ("Thank you. Good-bye.", "thank you goodbye"),
        ("Good bye.", "goodbye"),
    ],
)
def test_what_sounds_the_same_reads_the_same(written: str, spoken: str) -> None:
    assert normalise(written) == normalise(spoken)


def test_digits_keep_their_zeros() -> None:
    spelled = "zip code zero two one three nine"
    assert normalise("zip code oh two one three nine") == normalise("zip code 02139") == spelled
    assert normalise("number 0042 and 1.05") == "number zero zero four two and one zero five"


def test_errors_are_counted_in_words() -> None:
    assert count_errors("Your parcel is at our depot.", "your parcel was at depot") == WordErrors(2, 6)
    assert count_errors("parcel 4271", "parcel 4371") == WordErrors(1, 5)
    assert count_errors("", "hello there") == WordErrors(2, 0)
    assert count_errors("hello there", "") == WordErrors(2, 2)
    assert count_errors("...", "") == WordErrors(0, 0)
    assert WordErrors(0, 0).rate == 0.0
    assert WordErrors(1, 0).rate == float("inf")


def test_rate_weighs_by_words_not_by_recordings() -> None:
    report = word_error_rate(["a b c d e f g h i", "hello"], ["a b c d e f g h i", "goodbye"])
    assert (report["errors"], report["words"], report["n"]) == (1, 10, 2)
    assert report["wer"] == pytest.approx(0.1)
    assert report["low"] <= 0.1 <= report["high"]
    assert word_error_rate([], [])["wer"] is None
    with pytest.raises(ValueError, match="1 references for 2"):
        word_error_rate(["a"], ["a", "b"])
