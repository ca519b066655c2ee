"""The reward of a program: what is right is paid, in whichever form it comes; no canary is, and none hurts."""

import os
import random
import threading
from pathlib import Path

import pytest

from r1jax.base.fields import UserError
from r1jax.data.problems import Function
from r1jax.data.questions import Question
from r1jax.reward import code
from r1jax.reward.code import Code
from r1jax.reward.response import Response
from r1jax.reward.rules import Score
from r1jax.reward.sandbox import Limits

TESTS = (("f(1)", "5"), ("f(-2)", "-4"), ("f(10)", "32"))
QUESTION = Question(1, "Write a Python function f(x) that returns x times 3 plus 2.", "", "en", 1, "code", TESTS)
REWARD = Code(limits=Limits(wall=20.0, cpu=5, memory=128 * 2**20))
RIGHT, WRONG, UNREAD = Score(1.0), Score(0.0), Score(0.0, "unparsable")


def response(answer: str) -> Response:
    return Response(f"<think> so </think> <answer> {answer} </answer>", 9, False)


@pytest.mark.parametrize(
    "answer",
    [
        "def f(x): return x*3+2",
        "f = lambda x: x * 3 + 2",
        "import math\n\ndef double(x):\n    return 2 * x\n\ndef f(x):\n    return double(x) + math.floor(x) + 2\n",
        "So:\n```python\ndef f(x): return 0\n```\nNo, rather:\n```python\ndef f(x):\n    return x * 3 + 2\n```\nDone.",
        "```\ndef f(x): return x*3+2\n```",
        "import os, sys\ndef f(x):\n    print('noise'); sys.stderr.write('noise'); os.write(1, b'7')\n    return x*3+2",
    ],
)
def test_a_right_program_is_paid(answer):
    assert REWARD.score(QUESTION, response(answer)) == RIGHT


def test_the_summary_of_a_chat_may_hold_a_program():
    text = (
        "<think> so </think> Here it is, for 7 and more:\n```python\ndef f(x):\n    return x * 3 + 2\n```\nIt takes 3."
    )
    assert REWARD.score(QUESTION, Response(text, 9, False, "chat")) == RIGHT


GOOD = "def f(x): return x*3+2"
FORGED = r"""
import os, sys, builtins
def f(x): return 7
{}
"""


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", UNREAD),
        (QUESTION.text, UNREAD),
        (f"<think> so </think> <answer> {QUESTION.text} </answer>", UNREAD),
        (f"<think> so </think> <answer> f {QUESTION.text} def f( </answer>", UNREAD),
        ("<think> so </think> <answer> </answer>", UNREAD),
        ("<think> so </think> <answer> 5 -4 32 </answer>", UNREAD),
        (f"<think> so </think> <answer> {GOOD} </answer> <answer> {GOOD} </answer>", UNREAD),
        (f"<think> <answer> {GOOD} </answer> </think> <answer> 7 </answer>", UNREAD),
        (f"<think> {GOOD} </think>", UNREAD),
        ("<think>" * 1000 + GOOD + "</answer>" * 1000, UNREAD),
        (f"{GOOD}", UNREAD),
        (f"<think> so </think> <answer> ```python\n{GOOD} </answer>", UNREAD),
        (f"<think> so </think> <answer> ```rust\n{GOOD}\n``` </answer>", UNREAD),
        ("<think> so </think> <answer> def g(x): return x*3+2 </answer>", UNREAD),
        ("<think> so </think> <answer> def f(x) return x*3+2 </answer>", UNREAD),
        ("<think> so </think> <answer> def f(x): return x*3+2\0 </answer>", UNREAD),
    ],
)
def test_what_is_no_program_is_not_paid(text, score):
    assert REWARD.score(QUESTION, Response(text, 9, False)) == score


@pytest.mark.parametrize(
    "program",
    [
        "def f(x): return x*3+1",
        "def f(x): return str(x*3+2)",
        "def f(x): return float(x*3+2)",
        "def f(x): return x*3+2 if x > 0 else None",
        "def f(x): raise ValueError",
        "def f(x): exit(0)",
        "def f(x): return x*3+2\nraise ValueError",
        "def f(x): return f(x)",
        FORGED.format("sys.exit(0)"),
        FORGED.format("os._exit(0)"),
        FORGED.format("os.write(3, b'5\\n-4\\n7'); os._exit(0)"),
        FORGED.format("os.write(3, b'5\\n-4\\n32\\n7'); os._exit(0)"),
        FORGED.format("print('5\\n-4\\n32', flush=True); os._exit(0)"),
        FORGED.format("builtins.ascii = builtins.eval = lambda *a: True"),
        FORGED.format("class Same(int):\n    __eq__ = lambda *a: True\ndef f(x): return Same(7)"),
        FORGED.format(
            "class Any:\n    __eq__ = lambda *a: True\n    __repr__ = lambda s: '__import__(\"os\")'\nf = Any"
        ),
        FORGED.format("class Many:\n    __repr__ = lambda s: '5\\n-4\\n32'\ndef f(x): return Many()"),
        FORGED.format("sys.modules['__main__'].calls = ('7',)"),
        FORGED.format("def f(x): return sys._getframe(1).f_globals.get('tests', 7)"),
        FORGED.format("def f(x): return '(' * 60_000"),
        FORGED.format("def f(x): return 10 ** 10_000"),
        FORGED.format("def f(x): return [0] * 10**9"),
        "import os\ndef f(x): return x*3+2\nwhile True:\n    os.write(3, b'5' * 2**16)",
        "import os\ndef f(x): return x*3+2\nos.fork()\nos.kill(os.getpid(), 9)",
        "import socket\ndef f(x): return socket.socket() and x*3+2",
        "import os\ndef f(x): return os.fork() and x*3+2",
        "def f(x): return bytearray(2**30) and x*3+2",
        "def f(x): return open('/usr/canary', 'w') and x*3+2",
    ],
)
def test_what_fails_its_tests_is_not_paid(program):
    assert REWARD.score(QUESTION, response(program)) == WRONG


@pytest.mark.parametrize(
    "program", ["def f(x):\n    while True: pass", "import os, time\nos.close(1)\ntime.sleep(60)\ndef f(x): pass"]
)
def test_what_does_not_end_is_a_timeout(program):
    assert Code(limits=Limits(wall=0.8)).score(QUESTION, response(program)) == Score(0.0, "timeout")


def test_a_canary_leaves_the_trainer_as_it_was(tmp_path):
    os.chmod(tmp_path, 0o777)
    children = lambda: [(task / "children").read_text() for task in Path("/proc/self/task").iterdir()]  # noqa: E731
    before, threads, folder = children(), threading.active_count(), os.getcwd()
    target = tmp_path / "canary"
    program = f"import os\nopen({str(target)!r}, 'w').write('1')\nos.chdir('/')\n{GOOD}"
    assert REWARD.score(QUESTION, response(program)) == WRONG
    assert not target.exists() and os.getcwd() == folder and threading.active_count() == threads
    assert children() == before


def test_what_is_not_judged():
    assert REWARD.score(QUESTION, Response(f"<think> so </think> <answer> {GOOD}", 9, True)) == Score(0.0, "truncated")
    arithmetic = Question(2, "What is 7+5?", "2", "en", 2)
    request = Question(3, "Tell me of tea.", "", "en", 1, "helpful", (("f(1)", "5"),))
    for question in (arithmetic, request):
        assert REWARD.score(question, response("def f(x): return 5")) == Score(0.0, "inapplicable")


def test_functions_of_the_miniature_world_are_paid():
    """What the task says is right passes the task's own tests; what it forgot brackets in does not."""
    function = Function((("+", 2), ("*", 3), ("-", 4)))
    question = Question(4, function.ask(random.Random(0), "en"), function.answer, "en", 3, "code", function.tests)
    assert REWARD.score(question, response(function.answer)) == RIGHT
    assert REWARD.score(question, response("def f(x):return x+2*3-4")) == WRONG


@pytest.mark.parametrize(
    ("said", "truth", "equal"),
    [
        ("5", "5", True),
        ("5.0", "5", False),
        ("True", "1", False),
        ("'a'", '"a"', True),
        ("[1, (2, {'k': None})]", "[1,(2,{'k':None})]", True),
        ("{2, 1}", "{1, 2}", True),
        ("{'b': 1, 'a': 2}", "{'a': 2, 'b': 1}", True),
        ("'\\u5f97'", "'得'", True),
        ("0.30000000000000004", "0.1", False),
        ("", "0", False),
        ("x", "0", False),
        ("__import__('os').getpid()", "0", False),
        ("-" * 1000 + "5", str([5] * 400), False),
        ("(" * 3000, str([5] * 2000), False),
        ("{[]}", "{1}", False),
        ("5" + "0" * 10**6, "5", False),
    ],
)
def test_results_are_compared_as_literals(said, truth, equal):
    assert code.same(said, truth) == equal


def test_mistakes_are_named():
    with pytest.raises(UserError, match="a test expects 'f', which is no Python literal"):
        code.same("5", "f")
    with pytest.raises(UserError, match="without_sandbox"):
        Code(without_sandbox=1)
    with pytest.raises(UserError, match="limits"):
        Code(limits=5)
