"""Slugs: text made fit for a URL."""

from textkit.words import split_words


def slugify(text, max_length=None, separator="-"):
    """Join the words of a text with a separator.

    With `max_length` the slug is cut to at most that many characters, never in
    the middle of a word.
    """
    slug = ""
    for word in split_words(text):
        longer = slug + separator + word if slug else word
        if max_length is not None and len(longer) >= max_length:
            break
        slug = longer
    return slug
