"""Splitting text into words."""

import re
import unicodedata


def split_words(text):
    """The words of a text, in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", text)
    plain = plain.encode("ascii", "ignore").decode("ascii")
    return re.findall(r"[a-z0-9]+", plain.lower())
