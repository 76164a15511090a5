"""Small helpers for text."""

from textkit.slug import slugify
from textkit.words import split_words

__all__ = ["slugify", "split_words"]
