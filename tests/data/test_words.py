"""Which texts are the same text, and what a text's words are: by hand in several scripts, and against the reference."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference import fold

from biencoder_ablate.data.words import split_words, text_key

# --- equal texts ---


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Ban it.", "ban it"),
        ("Ban it", "BAN  IT!"),
        ("“Ban” — it…", '"Ban" - it'),
        ("ban\tit\n", " ban it "),
        ("STRASSE", "straße"),
        ("ban_it", "ban it"),
        ("no-one", "no one"),
        ("Don’t, he said; don't!", "dont he said (dont)"),
        ("Ban it,or not.Now", "Ban it, or not. Now"),
        ("‹Non›, «non»", "non non"),
        ("from 1914–18", "from 1914-18"),
        ("−5 °C", "-5 °C"),
        ("at 10:30, or 5.", "at 10:30 or 5"),
        ("1½", "1 1/2"),
        ("x²", "x^2"),
        ("le café", unicodedata.normalize("NFD", "le café")),
        ("Việt Nam", unicodedata.normalize("NFD", "Việt Nam")),
        ("ﬁnd Ｃ＋＋", "find C++"),
        ("co\u00adoperate\u200b", "cooperate"),
        ("❤\ufe0f", "❤"),
        ("पता क्या है?", "पता क्या है।"),
        ("何ですか？", "何ですか。"),
        ("ｶﾞﾗｽ", "ガラス"),
    ],
)
def test_equal_after_folding_case_space_and_punctuation(a, b):
    assert text_key(a) == text_key(b) == text_key(text_key(a))


@pytest.mark.parametrize(
    "texts",
    [
        ["ban it", "ban them"],
        ["1 in 10", "1 in 11"],
        ["café", "cafe"],
        ["?", "!"],  # of punctuation alone: else all of them would be one text
        ["...", "—"],
        ["", " "],
        ["the rapist", "therapist"],
        ["What is C?", "What is C++?", "What is C#?", "What is &C?"],
        ["1.5%", "15%", "1,5%", "1 5%", "1.5", "15", ".15", "-15", "1-5", "1:5", "1/5"],
        ["5²", "52", "5^-2"],
        ["1½", "11/2"],
        ["x < 5", "x > 5", "x = 5", "x 5"],
        ["$5", "€5", "5"],
        ["Yes 👍", "Yes 👎", "Yes"],
        ["पता क्या है?", "पिता क्या हैं?"],  # what is the address, what is father
        ["কলা", "কালো", "কালা"],  # Bengali
        ["மல்", "மால்", "மலை"],  # Tamil
        ["เสือ", "เสื้อ", "เสอ"],  # Thai: tiger, shirt
        ["عَلِمَ", "عُلِمَ"],  # he knew, it was known
        ["שָׁמַר", "שִׁמֵּר"],
    ],
)
def test_letters_marks_digits_and_symbols_make_different_texts(texts):
    assert len({text_key(text) for text in texts}) == len(texts)
    assert len({text_key(unicodedata.normalize("NFD", text)) for text in texts}) == len(texts)


TRICKY = (
    "aAbİßσς 15٣.,:;-–−+#%&@/\\'’‘`´\"“”«(_*?!…。،٫٬^²⁻½⅓⁄$€<>=~|♥👍éﬁＣｶﾞéñ"
    "\u0301\u0327ািং์้\u00ad\u200b\u200d\ufe0f\u034f\n\u3000"
)


@settings(deadline=None, max_examples=500)
@given(st.text(st.sampled_from(TRICKY), max_size=12) | st.text(max_size=12))
def test_keys_are_those_of_the_plain_reference(text):
    assert text_key(text) == fold(text)


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from(TRICKY), max_size=12))
def test_both_normal_forms_are_one_text(text):
    composed, apart = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    if text_key(composed) != composed:  # else nothing may be left of it but itself
        assert text_key(composed) == text_key(apart)


# --- words ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("!? —", []),
        ("Cats don't purr, snake_case x1", ["Cats", "don", "t", "purr", "snake_case", "x1"]),
        ("naïve “quotes” ❤\ufe0fok co\u00adop", ["naïve", "quotes", "ok", "co", "op"]),
        (unicodedata.normalize("NFD", "le café"), ["le", "café"]),
        ("विद्यालय में खाना", ["विद्यालय", "में", "खाना"]),
        ("क्\u200dष", ["क्ष"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("עָלִים", ["עָלִים"]),
        ("동물원은 좋다", ["동물원은", "좋다"]),
        ("電車は、よい。", ["電車", "車は", "よい"]),
        ("第3回 AIは3日", ["第", "3", "回", "AI", "は", "3", "日"]),
        ("ラーメン・東京", ["ラー", "ーメ", "メン", "東京"]),
        ("ไฟดับ", ["ไฟ", "ฟด", "ดั", "ับ"]),
        ("ລາວ", ["ລາ", "າວ"]),
        ("ខ្មែរ", ["ខ្", "្ម", "មែ", "ែរ"]),
        ("မြန်", ["မြ", "ြန", "န်"]),
    ],
)
def test_words_by_hand(text, words):
    assert split_words(text) == [unicodedata.normalize("NFC", word) for word in words]


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from("“”‘’–—…€ﬁ½αЖ"), max_size=20))
def test_where_there_are_no_marks_words_are_those_of_a_pattern(text):
    assert split_words(text) == re.findall(r"\w+", unicodedata.normalize("NFC", text))
