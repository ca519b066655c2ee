"""Which texts share a passage: the 10-gram filter that keeps what is held out apart from what is trained on.

DeepSeek-R1 (2501.12948v2, D.1) leaves out training texts that share 10 words in a row with a test question. It does not
say what a word is. Here it is a run of letters or digits, an ideograph, or a symbol that may be an operator; case,
punctuation and the brackets of TeX do not count. A text of fewer words is compared as a whole.
"""

import re
from collections.abc import Iterable

_IDEOGRAPH = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+|[^\w\s.,;:!?'\"()\[\]{{}}$\\。，、；：！？“”‘’（）]")


def grams(text: str, n: int | None) -> set[tuple[str, ...]]:
    """Every n words in a row of the text; None, or a text that is shorter: all its words at once."""
    words = tuple(_WORD.findall(text.lower())) or (text,)
    n = len(words) if n is None else min(n, len(words))
    return {words[i : i + n] for i in range(len(words) - n + 1)}


def apart(texts: Iterable[str], held_out: Iterable[str], n: int | None) -> list[int]:
    """The indices of those texts that share no gram with any text that is held out, in order."""
    taken = set().union(*(grams(text, n) for text in held_out))
    return [index for index, text in enumerate(texts) if taken.isdisjoint(grams(text, n))]
