from textkit import split_words


def test_splits_at_punctuation():
    assert split_words("a.b, c") == ["a", "b", "c"]


def test_keeps_digits():
    assert split_words("Route 66") == ["route", "66"]
