"""Recognising folders of good images by their names.

A folder holds good images if its name is one of :data:`GOOD_NAMES`; case and all characters but
letters and digits are ignored. A name that only resembles these (``good_parts``, ``0_good``,
``good2``) is unclear: the user has to say whether the folder is good, because an error in either
direction spoils a detector or its figures.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from enum import Enum

# English, German (i.O.: in Ordnung), French, Italian, Spanish, Chinese, Japanese and Korean.
GOOD_NAMES = frozenset(
    {
        *("good", "ok", "okay", "pass", "passed", "normal", "io", "gut", "bon", "bonne", "buono", "bueno"),
        *("accept", "accepted", "conforming", "flawless", "healthy", "intact", "nominal"),
        *("defectfree", "nodefect", "nodefects", "nondefective", "anomalyfree", "noanomaly", "nofault", "faultfree"),
        *("良品", "合格", "合格品", "正常", "정상", "양품"),
    }
)
# Never good, even if the option ``subfolders`` declares every folder good.
_BAD_NAMES = frozenset(
    {
        *("bad", "ng", "nok", "notok", "notgood", "nogood", "ko", "nio", "reject", "rejected", "rejects"),
        *("fail", "failed", "fails", "defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal"),
        *("faulty", "schlecht", "ausschuss", "scrap", "不良", "不良品", "不合格", "異常", "异常", "불량"),
    }
)
# Names that are unlikely for a type of defect, and words that turn a word for defects into its
# opposite.
_UNCLEAR_NAMES = frozenset({"clean", "perfect", "golden", "reference", "referenz"})
_FREE = frozenset({"free", "frei", "no", "non", "without", "ohne"})
_NOT = frozenset({"no", "not", "non", "un", "n", "ab", "kein", "keine", "nicht", "without"})
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NEARLY_GOOD = re.compile(r"(?P<before>.*?)go+ds?(?P<after>.*)")


class Named(Enum):
    """What the name of a folder says about its images."""

    GOOD = "good"
    UNCLEAR = "unclear"
    OTHER = "other"


def by_name(name: str, good_folders: Collection[str] = ()) -> Named:
    """Return what a folder's name says about its images.

    Args:
        name: The folder's name.
        good_folders: The folders that the user declared good; if there are any, no other name is
            unclear.
    """
    if name in good_folders or is_good(name):
        return Named.GOOD
    return Named.UNCLEAR if not good_folders and _resembles_good(name) else Named.OTHER


def is_good(name: str) -> bool:
    """Whether a name is one of the usual names for good images."""
    return _plain(name) in GOOD_NAMES


def is_bad(name: str) -> bool:
    """Whether a name can only mean defective images."""
    return _plain(name) in _BAD_NAMES


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))


def _resembles_good(name: str) -> bool:
    """Whether a word of a name means good, and no earlier word negates it (``not_ok``)."""
    if is_bad(name):
        return False
    words = [word.casefold() for word in _WORD.findall(_CAMEL.sub(" ", name))]
    if _plain(name) in _UNCLEAR_NAMES or (_FREE.intersection(words) and any(map(is_bad, words))):
        return True
    for index, word in enumerate(words):
        if word in _NOT:
            return False
        nearly = _NEARLY_GOOD.fullmatch(word)
        if word in GOOD_NAMES or word.startswith("normal") or (nearly and nearly["before"] not in _NOT):
            return True
        if word == "i" and words[index + 1 : index + 2] == ["o"]:
            return True
    return False
