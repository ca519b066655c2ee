"""Counts words: in which language a text thinks, and how often it looks back.

    consistency = words in the target language / words            (R1 paper, equation 7)

The paper does not say what a word is. Here a Chinese word is one ideograph, an English word a run of two or more Latin
letters, and a run of two or more other letters is a word of some other language. Digits, symbols, single letters (the
variables of mathematics) and TeX commands are words of no language.
"""

import re

from r1jax.base.fields import require

_LATIN = r"A-Za-zÀ-ÖØ-öø-ɏ"
_IDEOGRAPH = r"\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(
    rf"\\[A-Za-z]+|(?P<zh>[{_IDEOGRAPH}])|(?P<en>[{_LATIN}]{{2,}}(?:['’][{_LATIN}]+)*)|[^\W\d_{_LATIN}{_IDEOGRAPH}]{{2,}}"
)
# The ten words that the paper counts (section on reflective behaviour), and what a Chinese writer says in their place.
# 不错 and 没错 approve, 对不对 asks, 不但 goes on: none of them looks back.
_REFLECTIVE = re.compile(
    rf"(?<![{_LATIN}])(?:wait|mistake|however|but|retry|error|verify|wrong|evaluate|check)(?![{_LATIN}])"
    r"|等等|等一下|(?<!对)不对|(?<![不没])错|(?<!不)但|然而|检查|验证|核对|评估|重新?(?:计算|[算试做])",
    re.IGNORECASE,
)


def consistency(text: str, language: str) -> float:
    """The share of the words of `text`, 0 to 1, that are of `language` ('en' or 'zh'); 1 where there is no word."""
    require(language in ("en", "zh"), f"no word counter for language {language!r}; there are 'en' and 'zh'")
    words = [match.lastgroup for match in _WORD.finditer(text) if not match[0].startswith("\\")]
    return words.count(language) / len(words) if words else 1.0


def reflections(text: str) -> int:
    """How many reflective words the text holds; English ones as whole words, in any case."""
    return sum(1 for _ in _REFLECTIVE.finditer(text))
