"""Runs untrusted Python programs, each in processes of its own that can reach nothing and are gone afterwards.

A program sees the standard library, an empty writable folder, an empty environment and nothing else: no network, no
files of the machine, no other process. It runs under an unprivileged id in its own user, process, network, mount, IPC
and host name namespaces, below a filter of system calls. bubblewrap makes them where it is installed and works, the
kernel's calls where not; launcher.py says how. What it prints is the work of an adversary: cut, never trusted.

Which way works is found by trying it, once per process: a program that can fork although its limit forbids it, or that
sees a file outside, is in no sandbox, whatever the calls returned.
"""

import contextlib
import functools
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Literal, NamedTuple

from r1jax.base.fields import UserError, at_least, check
from r1jax.reward import launcher

Way = Literal["bubblewrap", "kernel", "bare"]
GRACE = 10.0  # seconds beyond the wall limit after which the launcher itself is taken for dead
NO_SANDBOX = (
    "no sandbox for untrusted programs can be had here ({}): install bubblewrap, or allow user namespaces "
    "(user.max_user_namespaces, a container's seccomp profile), or set without_sandbox = True to run them under limits "
    "alone, with your rights, files and network"
)
PROBE = """
import os, socket
if os.path.exists({outside!r}):
    print("it sees files outside")
for what, attempt in ("fork", os.fork), ("open a socket", socket.socket):
    try:
        attempt()
        os.write(1, f"it can {{what}} ".encode())
    except OSError:
        pass
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """wall, cpu: seconds; cpu counts per process, in whole seconds. memory: bytes of address space of one process.
    processes: at once, threads counted, the program itself included. file: bytes of one file, and of all files in the
    scratch folder. output: bytes of stdout and stderr together; one that writes more is killed."""

    wall: float = 5.0
    cpu: int = 4
    memory: int = 512 * 2**20
    processes: int = 1
    file: int = 2**20
    output: int = 2**16

    def __post_init__(self):
        check(self)
        at_least(1, self, "cpu", "processes", "file", "output")
        at_least(0.1, self, "wall")
        at_least(32 * 2**20, self, "memory")  # Python itself


class Outcome(NamedTuple):
    """status: 'ok'; 'failed', an exit status that is not 0; 'timeout', of wall or processor time; 'killed', by a signal
    or for its output; 'broken', when the sandbox could not be made this time. output: bytes, whatever they are."""

    status: str
    output: bytes


def run(program: str, limits: Limits, *, without_sandbox: bool = False) -> Outcome:
    """Runs a program to its end and returns when all its processes are gone. UserError as `way` has it."""
    return run_by(way(without_sandbox), program, limits)


def way(without_sandbox: bool = False) -> Way:
    """How programs run here. UserError where no sandbox can be had, unless `without_sandbox`; then under limits alone,
    which is 'bare'."""
    found, why = available()
    if found is None and not without_sandbox:
        raise UserError(NO_SANDBOX.format(why))
    return found or "bare"


@functools.cache
def available() -> tuple[Way | None, str]:
    """The way that works here; or None, and why not."""
    reasons = []
    for candidate in ("bubblewrap", "kernel"):
        why = fault(candidate)
        if not why:
            return candidate, ""
        reasons.append(f"{candidate}: {why}")
    return None, "; ".join(reasons)


def fault(by: Way) -> str:
    """Why a way does not work here, in a line; empty where it does."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        return "made for Linux on x86_64 and aarch64"
    if by == "bubblewrap" and not shutil.which("bwrap"):
        return "not installed"
    with tempfile.NamedTemporaryFile() as outside:
        outcome = run_by(by, PROBE.format(outside=outside.name), Limits(wall=30.0))
    if outcome == ("ok", b""):
        return ""
    return " ".join(outcome.output.decode(errors="replace").split())[:200] or outcome.status


def run_by(by: Way, program: str, limits: Limits) -> Outcome:
    """Runs a program by a stated way, which may be none at all."""
    with tempfile.TemporaryDirectory() if by == "bare" else contextlib.nullcontext() as scratch:
        request = {
            "launcher": launcher.__spec__.loader.get_code(launcher.__name__),
            "program": program,
            "limits": vars(limits),
            "room": limits.file + 4 * len(program) + 2**16,  # in the scratch folder, with the program itself
            "python": os.path.realpath(sys._base_executable),
            "prefixes": [sys.base_prefix, sys.base_exec_prefix],
            "parent": os.getpid(),
            "scratch": scratch,
            "bubblewrap": shutil.which("bwrap"),
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", launcher.START, "main", by],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )
        with process:
            try:
                said, complaint = process.communicate(marshal.dumps(request), limits.wall + GRACE)
            except subprocess.TimeoutExpired:
                return Outcome("timeout", b"")
            finally:
                process.kill()
    if process.returncode < 0:
        return Outcome("killed", b"")
    if process.returncode:
        return Outcome("broken", complaint[-1000:])
    status, _, output = said.partition(b"\n")
    return Outcome(status.decode(), output)
