"""Compares answers by math-verify, a request a line. Not a module: `mathematics` starts it as `python -P verifier.py`.

A request is a JSON list [truth, answer, seconds], the reply 'right', 'wrong' or 'unparsable'. An answer may be hostile:
`9^{9^{9}}` keeps sympy busy for ever. So the kernel counts the CPU time of each request and ends the process when it is
spent (a timer of CPU time, so that a busy machine changes no reward), and memory is bounded. math-verify has time-outs
of its own, by SIGALRM in the main thread, which raise inside sympy's caches; they are off.
"""

import contextlib
import functools
import json
import logging
import os
import resource
import signal
import sys

logging.disable(logging.CRITICAL)  # it warns that its time-outs are off

from math_verify import LatexExtractionConfig, parse, verify  # noqa: E402

MEMORY = 4 << 30  # bytes of address space


@functools.lru_cache(maxsize=1000)
def read(text: str) -> list:
    """What math-verify makes of one answer, taken as TeX; an empty list where it makes nothing of it."""
    found = parse(
        f"\\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found


def compare(truth: str, answer: str) -> str:
    """A truth that math-verify cannot read is right in no answer."""
    found = read(answer)
    if not found:
        return "unparsable"
    return "right" if verify(read(truth), found, timeout_seconds=None) else "wrong"


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with its stdin
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):  # not everywhere can the address space be bounded
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        truth, answer, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            said = compare(truth, answer)
        except Exception:  # whatever a strange text leads to, memory and recursion included
            said = "unparsable"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(said, file=replies, flush=True)


if __name__ == "__main__":
    main()
