"""When two texts are the same text, and what the words of a text are, in any script.

Imports nothing but the standard library.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

# --- equal texts ---

_MEANT = "#%&@/\\§′‰‱٪؉؊"
"""Unicode calls them punctuation; they are read aloud, and stay as symbols do."""
_TAGS = 0xE0020
"""Invisible too, but what tells the flags of England and Wales apart."""
_APOSTROPHES = "'`‘’‚‛‹›´"
_SPELLINGS = {"−": "-", "⁄": "/", "∕": "/", "٫": ".", "٬": ",", **dict.fromkeys(_APOSTROPHES, "'")}
"""What is written in several ways, and which of them stands for all."""

# NFKC alone would make 52 of 5², and 11/2 of 1½.
_RAISED = re.compile("([⁰¹²³⁴-⁹⁺⁻]+)")
_BEFORE_NFKC = {ord("´"): "'"} | {ord(part): f" {part}" for part in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅟↉"}

_APOSTROPHE = re.compile(r"(?<!\d)'|'(?!\d)")
_PUNCTUATION = re.compile(
    r"""( (?<=\d) [.,:-] (?=\d)                            # inside a number: 1.5, 1,000, 10:30, 1914-18
        | (?<![^\s$€£¥#&@/^+<=>~|]) (?: -\.? | \.) (?=\d)  # where one begins: -5, .5, -.5
        ) | [.,:-]""",
    re.VERBOSE,
)


class _FoldedCharacters(dict[int, str]):
    """What `text_key` makes of each character (for str.translate), worked out when it first comes."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in _SPELLINGS:
            folded = _SPELLINGS[character]
        elif category == "Pd":
            folded = "-"
        elif (category == "Cf" and code < _TAGS) or _is_variation_selector(character):
            folded = ""
        elif category[0] == "Z" or category == "Cc" or (category[0] == "P" and character not in _MEANT + ".,:"):
            folded = " "
        else:
            folded = character
        self[code] = folded
        return folded


_FOLDED = _FoldedCharacters()


def text_key(text: str) -> str:
    """What makes two texts the same text: equality after folding case, white space and punctuation.

    - Characters are compared in Unicode's form NFKC with case folded, so that an accent may be one character or two,
      and a letter full width or part of a ligature. Raised digits are read as `^2`, ½ as `1/2`; invisible characters
      (category Cf but for tags, variation selectors) are dropped.
    - Letters, combining marks, digits and symbols (categories L, M, N, S) count, and so do # % & @ / \\ § ′ ‰ and
      characters that Unicode gives no meaning.
    - Apostrophes and single quotation marks are dropped: `don't` is `dont`. All other punctuation counts as a space.
      Both stay between two digits where they are one of . , : - ' (dashes of all kinds are one), and a point or minus
      stays where a number begins: `1.5` is not `15`, `-5` is not `5`.
    - White space between words counts as one space, at the ends as nothing.

    A text of which nothing is left, such as `?`, is equal only to itself.
    """
    folded = text
    if not text.isascii():
        folded = _RAISED.sub(r"^\1", text).translate(_BEFORE_NFKC)
        folded = unicodedata.normalize("NFKC", folded)
    folded = folded.casefold().translate(_FOLDED)
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", folded)  # folding case may take characters apart again

    folded = _APOSTROPHE.sub("", folded)
    folded = _PUNCTUATION.sub(lambda match: match[1] or " ", folded)
    return " ".join(folded.split()) or text


# --- words ---

_WORD = re.compile(r"\w+")
_NEEDS_CARE = re.compile("[\u0300-\u1fff\u200c\u200d\u20d0-\u20ff\u2c00-\U0010ffff]")
"""Where all combining marks, joiners and scripts without spaces are: a text with none of these is cut quickly."""
_UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u303c\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
    "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # Hiragana and Katakana
    "\u0e00-\u0e7f\u0e80-\u0eff"  # Thai, Lao
    "\u1780-\u17ff"  # Khmer
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
)
"""Scripts that are written without spaces between words."""
_ONE_SCRIPT = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")


def split_words(text: str) -> list[str]:
    """The words of a text, in order; case is left to the caller.

    A word is a run of letters, digits and underscores (\\w) with the combining marks on them, in Unicode's form NFC;
    joiners and variation selectors inside it are dropped. Han, Hiragana, Katakana, Thai, Lao, Khmer and Myanmar put no
    spaces between words: there the words are all pairs of neighbouring characters, as Lucene's CJKAnalyzer cuts
    them, or the one character that stands alone.
    """
    text = unicodedata.normalize("NFC", text)
    if not _NEEDS_CARE.search(text):
        return _WORD.findall(text)

    word, invisible = _word_patterns()
    words: list[str] = []
    for run in word.findall(invisible.sub("", text)):
        for part in _ONE_SCRIPT.finditer(run):
            characters = part[1]
            if characters and len(characters) > 1:
                words += [characters[start : start + 2] for start in range(len(characters) - 1)]
            else:
                words.append(part[0])
    return words


@cache
def _word_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of a word, and of what is dropped inside one: the standard library's patterns know no combining marks."""
    selectors: list[str] = []
    marks: list[str] = []
    for code in range(0x300, sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Mn", "Mc"):
            (selectors if _is_variation_selector(character) else marks).append(character)
    invisible = re.compile(f"[\u200c\u200d{''.join(selectors)}]")
    return re.compile(rf"\w[\w{''.join(marks)}]*"), invisible


def _is_variation_selector(character: str) -> bool:
    """Also the grapheme joiner: marks that are not seen themselves."""
    return character == "\u034f" or "VARIATION SELECTOR" in unicodedata.name(character, "")
