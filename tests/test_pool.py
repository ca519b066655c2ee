"""Workers that die, hang and complain: each costs its own piece of work, nothing else, and leaves nobody behind."""

import contextlib
import dataclasses
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import rewards
from etils import epath

from r1jax import scoring
from r1jax.base.fields import UserError
from r1jax.data import tokenizer
from r1jax.data.questions import Question
from r1jax.data.tokenizer import EOS, Tokenizer
from r1jax.responses import Responses
from r1jax.reward.code import Code
from r1jax.reward.pool import Lost, Pool
from r1jax.reward.response import Response
from r1jax.reward.rules import Accuracy, Format, Overlong
from r1jax.reward.sandbox import Limits
from r1jax.scoring import Scoring

ROOT = Path(__file__).parent.parent
LONG = 100.0  # seconds that nothing here takes, however busy the machine is


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether a process is gone before long."""
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def children() -> set[int]:
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread of jax or pytest may have ended since it was listed
            found |= set(map(int, (thread / "children").read_text().split()))
    return found


def test_results_come_in_order_from_processes_without_jax():
    before = children()
    with Pool(2, LONG) as pool:
        futures = [pool.submit(operator.mul, 2, i) for i in range(200)]
        assert [future.result() for future in futures] == [2 * i for i in range(200)]
        names = pool.submit(rewards.modules).result()
        assert "r1jax.reward.pool" in names and "jax" not in names and "numpy" not in names
        first, second = pool.submit(time.sleep, 0.2), pool.submit(os.getpid)
        assert second.result() not in (os.getpid(), None) and first.result() is None
    assert children() == before


def test_what_happens_to_one_worker_happens_to_its_piece_alone():
    with Pool(2, 4.0) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(10)}
        died = [pool.submit(os._exit, 0), pool.submit(os.abort), pool.submit(time.sleep, 600)]
        fine = [pool.submit(abs, -i) for i in range(20)]
        complained = pool.submit(operator.truediv, 1, 0), pool.submit(rewards.stubborn)
        assert [future.result() for future in fine] == list(range(20))
        for future in died:
            with pytest.raises(Lost, match="died, or took more than 4.0 seconds"):
                future.result()
        with pytest.raises(ZeroDivisionError) as raised:
            complained[0].result()
        assert "pool.py" in "".join(raised.value.__notes__)
        with pytest.raises(RuntimeError, match="1 and 2"):
            complained[1].result()
        assert pids.isdisjoint({pool.submit(os.getpid).result() for _ in range(10)})


def test_an_idle_worker_that_is_killed_is_replaced():
    with Pool(1, LONG) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        assert pool.submit(os.getpid).result() != pid


def test_a_closed_pool_leaves_nobody_whatever_was_under_way():
    before = children()
    with Pool(2, LONG) as pool:
        pid = pool.submit(os.getpid).result()
        futures = [pool.submit(time.sleep, 600) for _ in range(5)]
        while not any(future.running() for future in futures):
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 20
    assert children() == before and gone(pid)
    assert all(future.cancelled() or isinstance(future.exception(), Lost) for future in futures)


def test_workers_end_with_the_trainer():
    """Even one that is killed, with a worker that hangs where Python cannot see it."""
    script = """
import os, re
from r1jax.reward.pool import Pool
with Pool(1, 600.0) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(re.match, "(a*)*b", "a" * 60).result()
"""
    command = [sys.executable, "-c", script]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as trainer:
        worker = int(trainer.stdout.readline())
        assert alive(worker)
        trainer.kill()
    assert gone(worker)


QUESTION = Question(1, "Write f.", "", "en", 1, "code", (("f(2)", "5"),))


def test_a_worker_takes_the_program_that_it_runs_with_it():
    program = "import time\ndef f(x): time.sleep(600)"
    response = Response(f"<think> so </think> <answer> {program} </answer>", 9, False)

    def below(pid: int) -> list[int]:
        try:
            found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []
        return found + [grandchild for child in found for grandchild in below(child)]

    with Pool(1, LONG) as pool:
        worker = pool.submit(os.getpid).result()
        future = pool.submit(Code(limits=Limits(wall=80.0)).score, QUESTION, response)
        deadline = time.monotonic() + 60
        while len(started := below(worker)) < 3 and time.monotonic() < deadline:  # launcher, init, program
            time.sleep(0.01)
        assert len(started) >= 3
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(Lost):
            future.result()
        assert all(gone(pid) for pid in started)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Tokenizer:
    path = epath.Path(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.model"
    words = "so that def return print lambda die leave hang complain import while True pass think answer"
    tokenizer.train([f"{words} {i}" for i in range(200)], path, vocabulary=320)
    return Tokenizer(path)


def sampled(texts: list[list[str]], trained: Tokenizer) -> Responses:
    """Responses of these texts [Q, G], as the sampler would hand them out."""
    ids = [[[*trained.encode(text), EOS] for text in row] for row in texts]
    lengths = np.array([[len(tokens) for tokens in row] for row in ids])
    tokens = np.zeros((*lengths.shape, lengths.max()), np.int32)
    for q, g in np.ndindex(lengths.shape):
        tokens[q, g, : lengths[q, g]] = ids[q][g]
    logp = np.zeros(tokens.shape, np.float32)
    return Responses([[1]] * len(texts), tokens, logp, lengths, np.ones(lengths.shape, bool), turns=1, form="zero")


def test_responses_score_the_same_in_a_pool_and_in_place(trained):
    good, bad = (f"<think>so</think><answer>def f(x): return x{sign}3</answer>" for sign in "+-")
    texts = [[good, bad, ""], ["die", good, "<think>so</think>"]]
    responses, questions = sampled(texts, trained), [QUESTION, QUESTION]
    paid = (Code(), Format(weight=0.5))
    in_place = Scoring(questions, responses, paid, trained, None).scored
    assert in_place.rewards.tolist() == [[1.5, 0.5, 0], [0, 1.5, 0]]
    assert in_place.columns["reward/code"].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert in_place.columns["reward/unparsable"].tolist() == [[0, 0, 1], [1, 0, 1]]
    with scoring.workers(2) as pool:
        pooled = Scoring(questions, responses, paid, trained, pool).scored
    np.testing.assert_array_equal(pooled.rewards, in_place.rewards)
    assert pooled.columns.keys() == in_place.columns.keys()
    for name, values in in_place.columns.items():
        np.testing.assert_array_equal(pooled.columns[name], values, name)
    assert pooled.metrics() == in_place.metrics()


def test_a_response_that_costs_a_worker_is_a_timeout(trained):
    responses = sampled([["fine", "die", "fine"], ["hang", "leave", "fine"]], trained)
    with Pool(2, 4.0) as pool:
        scored = Scoring([QUESTION, QUESTION], responses, (rewards.Moody(),), trained, pool).scored
    assert scored.rewards.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert scored.columns["reward/timeout"].tolist() == [[0, 1, 0], [1, 1, 0]]
    assert scored.columns["tokens"].tolist() == responses.lengths.tolist()
    assert scored.metrics()["reward/timeout"] == 0.5


def test_dynamic_sampling_wants_groups_that_are_neither_all_right_nor_all_wrong(trained):
    """Also where another reward tells their samples apart, as that of the length does."""
    right, wrong, long = (f"<think>so</think><answer>{said}</answer>" for said in ("6", "7", "007"))
    texts = [[right, wrong], [wrong, long], [right, right]]
    question = dataclasses.replace(QUESTION, domain="math", answer="6", tests=())
    paid = (Accuracy(), Overlong(limit=200, buffer=199))
    scored = Scoring([question] * 3, sampled(texts, trained), paid, trained, None).scored
    assert scored.varied.tolist()[:2] == [True, True]
    assert scored.undecided.tolist() == [True, False, False]


def test_a_bug_in_a_reward_is_no_timeout(trained):
    with Pool(1, LONG) as pool, pytest.raises(LookupError, match="a bug in a reward"):
        _ = Scoring([QUESTION], sampled([["complain"]], trained), (rewards.Moody(),), trained, pool).scored


def test_scoring_does_not_wait(trained):
    responses = sampled([["hang"]], trained)
    with Pool(1, 2.0) as pool:
        began = time.monotonic()
        under_way = Scoring([QUESTION], responses, (rewards.Moody(),), trained, pool)
        assert time.monotonic() - began < 1 and under_way.seconds < 1
        assert float(jax.numpy.arange(4).sum()) == 6  # the device is free meanwhile
        assert under_way.scored.columns["reward/timeout"].tolist() == [[1]]
        assert under_way.seconds > 1


def test_how_responses_will_be_scored_is_said_and_checked():
    assert scoring.describe((Format(),), 0) == "scored in place"
    said = scoring.describe((Format(), Code()), 4)
    assert said in [f"processes that score: 4, programs run by {way}" for way in ("bubblewrap", "kernel")]
    with pytest.raises(UserError, match="Limits.wall is 55.0; a response is given up after 60.0 seconds"):
        scoring.describe((Code(limits=Limits(wall=55.0)),), 4)
    with pytest.raises(UserError, match="a pool of 0 workers"):
        Pool(0, 1.0)
