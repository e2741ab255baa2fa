"""Which folders hold good images, by their names.

A folder is good by its name when the name, without regard to case and to anything but letters and digits, is one of
:data:`GOOD_NAMES`. A name that merely resembles these (``good_parts``, ``0_good``, ``good2``) is neither: the user says
which folders are good, for an error in either direction spoils a detector or its figures.
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
# Never good, also where --subfolders says that every folder is.
_BAD_NAMES = frozenset(
    {
        *("bad", "ng", "nok", "notok", "notgood", "nogood", "ko", "nio", "reject", "rejected", "rejects"),
        *("fail", "failed", "fails", "defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal"),
        *("faulty", "schlecht", "ausschuss", "scrap", "不良", "不良品", "不合格", "異常", "异常", "불량"),
    }
)
# Words of a name that is hardly a defect's: alone, or beside another that takes a defect back.
_UNCLEAR_NAMES = frozenset({"clean", "perfect", "golden", "reference", "referenz"})
_FREE = frozenset({"free", "frei", "no", "non", "without", "ohne"})
_NOT = frozenset({"no", "not", "non", "un", "n", "ab", "kein", "keine", "nicht", "without"})
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NEARLY_GOOD = re.compile(r"(?P<before>.*?)go+ds?(?P<after>.*)")


class Named(Enum):
    """What the name of a folder says of its images."""

    GOOD = "good"
    UNCLEAR = "unclear"
    OTHER = "other"


def by_name(name: str, good_folders: Collection[str] = ()) -> Named:
    """Say what a folder's name tells of its images.

    Args:
        name: The folder's name.
        good_folders: Folders that the user calls good; with any of them, every other folder is what its name says,
            whatever it resembles.
    """
    if name in good_folders or is_good(name):
        return Named.GOOD
    return Named.UNCLEAR if not good_folders and _resembles_good(name) else Named.OTHER


def is_good(name: str) -> bool:
    """Whether a name is one of the usual ones for good images."""
    return _plain(name) in GOOD_NAMES


def is_bad(name: str) -> bool:
    """Whether a name is one that can only mean defective images."""
    return _plain(name) in _BAD_NAMES


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))


def _resembles_good(name: str) -> bool:
    """Whether one of a name's words is one of good's, and none before it takes that back (``not_ok``, ``nogood``)."""
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
