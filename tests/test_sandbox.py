"""Hostile programs in the sandbox, by every way that this machine has: none gets out, none stays, none hurts."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from r1jax.base.fields import UserError
from r1jax.reward import sandbox
from r1jax.reward.sandbox import Limits, Outcome, run_by

ROOT = Path(__file__).parent.parent
NAME = f"r1jax{os.getpid()}"  # of the hostile processes, by which any that is left is found
NAMED = f"import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True); libc.prctl(15, b'{NAME}')\n"
LIMITS = Limits(wall=20.0, cpu=10, memory=128 * 2**20, file=2**20, output=10_000)
# Where there is no sandbox, these tests fail; so the list is never empty, and pytest does not skip them.
WAYS = [way for way in ("bubblewrap", "kernel") if not sandbox.fault(way)] or ["kernel"]


@pytest.fixture(params=WAYS)
def way(request) -> str:
    why = sandbox.fault(request.param)
    assert not why, f"no sandbox: {why}"
    return request.param


def left() -> list[int]:
    """The processes that a hostile program named."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == NAME:
                found.append(int(path.parent.name))
        except OSError:  # it ended
            pass
    return found


def outcome(way: str, program: str, limits: Limits = LIMITS) -> Outcome:
    """Runs a program; whatever it was, it leaves nobody behind."""
    ended = run_by(way, NAMED + program, limits)
    assert left() == []
    return ended


def test_a_sandbox_can_be_had():
    assert sandbox.way() in WAYS


def test_status_and_output(way):
    assert outcome(way, "print('out', flush=True); print('and error', file=sys.stderr)") == ("ok", b"out\nand error\n")
    assert outcome(way, "print('so far', flush=True); sys.exit(3)") == ("failed", b"so far\n")
    assert outcome(way, "os._exit(0)") == ("ok", b"")
    assert outcome(way, "ctypes.string_at(0)") == ("killed", b"")
    assert outcome(way, "print(open(0).read())") == ("ok", b"\n")
    assert outcome(way, "import json, math, random, re, hashlib; print(random.random() < 1)") == ("ok", b"True\n")


@pytest.mark.parametrize("program", ["", "\0", "print('\udc80\ud800')", "def", "(" * 10_000, "#" * 10**6])
def test_no_text_breaks_the_trainer(way, program):
    assert run_by(way, program, LIMITS).status in ("ok", "failed", "killed")


def test_a_program_is_nobody_and_sees_nothing(way, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("the answer is 7")
    monkeypatch.setenv("SECRET", "7")
    program = f"""
print(os.getuid(), os.getgid(), os.getgroups() in ([], [65534]), os.getpid(), os.getcwd(), os.listdir())
print([name for name in os.environ if name != "LC_CTYPE"], os.uname().nodename)
for path in ({str(secret)!r}, {str(ROOT)!r}, "/etc/passwd", "/proc/1", "/sys", "/dev/mem", "/tmp", "/home", "/run"):
    if os.path.exists(path):
        print("there is", path)
for number in range(3, 1024):
    try:
        os.fstat(number)
        print("open", number)
    except OSError:
        pass
"""
    status, output = outcome(way, program)
    assert (status, output) == ("ok", b"65534 65534 True 2 /sandbox ['program.py']\n[] sandbox\n")


def test_a_program_writes_into_its_folder_only(way, tmp_path):
    os.chmod(tmp_path, 0o777)
    program = f"""
for folder in ("/", "/usr", "/usr/lib", "/dev", "/sandbox/..", os.path.dirname(os.__file__), {str(tmp_path)!r}):
    try:
        open(folder + "/canary", "w")
        print("wrote into", folder)
    except OSError:
        pass
try:
    os.chmod(os.__file__, 0o777)
    print("changed the library")
except OSError:
    pass
open("mine", "w").write("1")
print(os.listdir() == ["program.py", "mine"] or os.listdir() == ["mine", "program.py"])
"""
    assert outcome(way, program) == ("ok", b"True\n")
    assert not list(tmp_path.iterdir())


def test_a_program_opens_no_socket(way):
    program = """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, 40):
    try:
        socket.socket(family, socket.SOCK_STREAM)
        print("opened", family)
    except PermissionError:
        pass
"""
    assert outcome(way, program) == ("ok", b"")


def test_a_program_gains_no_right(way):
    program = """
import resource
attempts = {
    "user namespace": lambda: libc.unshare(0x10000000),
    "mount namespace": lambda: libc.unshare(0x20000),
    "namespace by clone": lambda: libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0),
    "clone3": lambda: libc.syscall(435, 0, 0),
    "mount": lambda: libc.mount(b"none", b"/sandbox", b"tmpfs", 0, None),
    "chroot": lambda: libc.chroot(b"/sandbox"),
    "root": lambda: libc.setuid(0),
    "trace": lambda: libc.ptrace(0, 0, 0, 0),
    "segment": lambda: libc.shmget(0, 4096, 0o1777),
    "memory file": lambda: libc.memfd_create(b"x", 0),
    "32-bit numbers": lambda: libc.syscall(0x40000000 + 39) if os.uname().machine == "x86_64" else -1,
}
for name, attempt in attempts.items():
    if attempt() != -1:
        print("could", name)
for name, attempt in {
    "priority": lambda: os.nice(-5),
    "processes": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (99, 99)),
    "memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)),
}.items():
    try:
        attempt()
        print("could", name)
    except (OSError, ValueError):
        pass
"""
    assert outcome(way, program) == ("ok", b"")


def test_forks_are_counted(way):
    program = """
import time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        children += 1
except OSError:
    print(children)
"""
    assert outcome(way, program) == ("ok", b"0\n")
    assert outcome(way, program, Limits(wall=20.0, processes=8)) == ("ok", b"7\n")


def test_a_fork_bomb_ends_with_its_time(way):
    bomb = """
import signal
os.setsid()
for number in (1, 2, 3, 15):
    signal.signal(number, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    began = time.monotonic()
    assert outcome(way, bomb, Limits(wall=1.0, processes=8)).status == "timeout"
    assert time.monotonic() - began < 15


def test_a_program_that_leaves_children_behind(way):
    program = "if os.fork() == 0:\n    os.setsid()\n    while True:\n        pass\nos._exit(0)"
    assert outcome(way, program, Limits(processes=2)).status == "ok"


def test_memory_is_limited(way):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, output = outcome(way, "x = []\nwhile True:\n    x.append(bytearray(2**20))")
    assert status == "failed" and b"MemoryError" in output
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_output_is_limited(way):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, output = outcome(way, "while True:\n    os.write(1, b'x' * 2**16)")
    assert (status, output) == ("killed", b"x" * LIMITS.output)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_files_are_limited(way):
    program = """
written = 0
try:
    for number in range(100):
        with open(str(number), "wb", buffering=0) as file:
            written += file.write(bytes(2**18))
except OSError:
    pass
print(written < 2 * 2**20)
try:
    open("0", "wb", buffering=0).truncate(2**20 + 1)
except OSError as error:
    print(error.errno)
"""
    assert outcome(way, program) == ("ok", b"True\n27\n")


@pytest.mark.parametrize(
    ("program", "limits"),
    [
        ("import time; time.sleep(60)", Limits(wall=0.6)),
        ("import time; os.close(0); os.close(1); os.close(2); time.sleep(60)", Limits(wall=0.6)),
        ("while True:\n    pass", Limits(wall=20.0, cpu=1)),
        (
            "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
            Limits(wall=20.0, cpu=1),
        ),
    ],
)
def test_time_is_limited(way, program, limits):
    began = time.monotonic()
    assert outcome(way, program, limits) == ("timeout", b"")
    assert time.monotonic() - began < 15


def test_signals_reach_nobody(way):
    program = """
for pid in (1, -1, os.getppid()):
    for number in (2, 9, 15, 19):
        try:
            os.kill(pid, number)
        except OSError:
            pass
print("still here")
"""
    assert outcome(way, program) == ("ok", b"still here\n")


def test_with_the_launcher_dies_the_program(way):
    ended = []
    waiting = threading.Thread(
        target=lambda: ended.append(run_by(way, NAMED + "import time; time.sleep(60)", Limits(wall=60.0)))
    )
    waiting.start()
    while not left():  # what finds the hostile processes does find them
        time.sleep(0.01)
    task = Path(f"/proc/self/task/{waiting.native_id}/children").read_text().split()
    (launcher,) = [int(pid) for pid in task if b"launcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(launcher, signal.SIGKILL)
    waiting.join(10)
    assert ended == [("killed", b"")]
    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left() == []


def as_user(python: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python under an ordinary id without groups, from an empty environment."""
    return subprocess.run(
        [python, "-B", *arguments],
        user=1234 if os.getuid() == 0 else None,
        group=1234 if os.getuid() == 0 else None,
        extra_groups=[] if os.getuid() == 0 else None,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def may_run(python: str) -> bool:
    try:
        return as_user(python, "-c", "import r1jax.reward.sandbox").returncode == 0
    except OSError:
        return False


ORDINARY = """
from r1jax.reward import sandbox
for way in {ways!r}:
    print(way, sandbox.fault(way), *sandbox.run_by(way, {program!r}, sandbox.Limits(wall=20.0, processes=8)))
"""


def test_an_ordinary_user_has_a_sandbox():
    """Root's tests would not show that it works for all."""
    python = next(filter(may_run, (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")), None)
    if python is None:
        pytest.skip("no Python here that another user may run")
    program = "import os\nn = 0\ntry:\n  while os.fork() or os.pause(): n += 1\nexcept OSError: print(n, os.getuid())"
    program = program.replace("os.pause()", "__import__('time').sleep(60)")
    ended = as_user(python, "-c", ORDINARY.format(ways=WAYS, program=program))
    assert ended.stdout == "".join(f"{way}  ok b'7 65534\\n'\n" for way in WAYS), ended.stderr


REFUSED = """
import ctypes, os, struct, sys
from r1jax.base.fields import UserError
from r1jax.reward import launcher, sandbox
code = launcher.filter_program(os.uname().machine)  # of which no namespace can be made any more
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
launcher.call("prctl", launcher.NO_NEW_PRIVILEGES, 1, 0, 0, 0)
launcher.call("prctl", launcher.SECCOMP, 2, ctypes.addressof(program), 0, 0)
try:
    sandbox.run("print(1)", sandbox.Limits())
except UserError as error:
    print(error)
print(sandbox.run("import os; print(len(os.environ), os.listdir())", sandbox.Limits(), without_sandbox=True))
print(sandbox.run("import time; time.sleep(60)", sandbox.Limits(wall=0.5), without_sandbox=True).status)
"""


def test_without_a_sandbox_programs_are_refused_unless_asked_for():
    ended = subprocess.run(
        [sys.executable, "-c", REFUSED], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    refusal, bare, late = ended.stdout.splitlines()
    assert refusal.startswith("no sandbox for untrusted programs can be had here (bubblewrap: ")
    assert "; kernel: " in refusal and "install bubblewrap" in refusal and "set without_sandbox = True" in refusal
    assert bare.startswith("Outcome(status='ok'") and "['program.py']" in bare
    assert late == "timeout"


@pytest.mark.parametrize("name", ["wall", "cpu", "memory", "processes", "file", "output"])
def test_limits_that_cannot_hold_are_refused(name):
    with pytest.raises(UserError, match=f"Limits.{name}"):
        Limits(**{name: 0})
    with pytest.raises(UserError, match=f"Limits.{name}"):
        Limits(**{name: None})
