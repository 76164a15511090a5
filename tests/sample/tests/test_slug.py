from textkit import slugify


def test_joins_words():
    assert slugify("Hello, World!") == "hello-world"


def test_drops_accents():
    assert slugify("Crème Brûlée") == "creme-brulee"


def test_uses_the_separator():
    assert slugify("one two", separator="_") == "one_two"


def test_cuts_between_words():
    assert slugify("one two three", max_length=9) == "one-two"


def test_keeps_the_last_word_when_it_just_fits():
    assert slugify("one two", max_length=7) == "one-two"


def test_of_nothing_is_empty():
    assert slugify("") == ""
