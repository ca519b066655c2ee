"""Runs one untrusted Python program in a sandbox; `sandbox.run` starts it.

A fresh interpreter, since the trainer has threads and must not fork: START, its whole command, takes a request from
stdin, in which this module stands compiled (to compile or import it anew would cost as much as the program), and calls
`main`, or inside bubblewrap `init`. The status, a new line and the program's output go to stdout. Exit status 1: the
sandbox could not be made, stderr says why.

    launcher   outside; reads the output, keeps the wall clock, kills, waits until nobody is left
      init     process 1 of the sandbox's pid namespace: with it dies every other one, however they forked
        program  an unprivileged id in a user namespace of its own, where nothing is mapped and nobody else counts

- ways: 'bubblewrap' has bwrap make the namespaces and mounts; 'kernel' makes them here, by the same calls; 'bare' makes
  none: limits, a scratch folder and an empty environment only.
- Limits on processes do not bind root, whatever it is called inside: a root launcher maps (or keeps) the real id 65534
  for the program. A user without privileges can only map its own id, which is bound by limits.
- The program is in the last user namespace alone, so its processes are counted from 1 there (Linux 5.14; before that
  all processes of the id are counted, and it cannot fork at all).
- The system-call filter closes what namespaces and limits leave open: memory that no limit counts (System V segments,
  memory files), sockets of families that network namespaces do not hold (vsock), new namespaces and their mounts.
"""

import contextlib
import ctypes
import marshal
import os
import resource
import select
import signal
import struct
import sys
import time

# What `python -c` runs; then come the name of a function, and the way.
START = (
    "import marshal, sys; request = marshal.load(sys.stdin.buffer); module = {}; exec(request['launcher'], module); "
    "sys.exit(module[sys.argv[1]](request, sys.argv[2]))"
)
NOBODY = 65534
ROOT, SCRATCH = "/proc", "/sandbox"  # the new root is mounted on a folder that exists everywhere and is not needed
STATUSES = {10: "ok", 11: "failed", 12: "timeout", 13: "killed"}  # exit statuses of init
CODES = {status: code for code, status in STATUSES.items()}
UNCONFINED = 14

# Of linux/sched.h, mount.h and prctl.h.
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
ANY_NAMESPACE = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | 0x2000000  # and of cgroups
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
DETACH = 2  # of umount2
READ_ONLY = 1 | NOSUID | NODEV  # the attributes of mount_setattr have the same bits
DEATH_SIGNAL, SECCOMP, SUBREAPER, NO_NEW_PRIVILEGES = 1, 22, 36, 38  # of prctl
MOUNT_SETATTR = 442  # the same number everywhere
# By machine: the id of its calling convention, then numbers of system calls.
CLONE, CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
FORBIDDEN = {
    "socket": (41, 198),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "ptrace": (101, 117),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),  # would open sockets past this filter
}


def call(name: str, *args) -> None:
    """A function of the C library; OSError where it fails."""
    wide = [arg if isinstance(arg, bytes) or arg is None else ctypes.c_long(arg) for arg in args]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def filter_program(machine: str) -> bytes:
    """The system-call filter in the kernel's classic BPF: instructions of (code, jump if true, if false, value)."""
    load, equal, at_least, has_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    forbidden = [numbers[machine == "aarch64"] for numbers in FORBIDDEN.values()]
    end = 2 + 2 + len(forbidden) + 2 + 2  # where the answers begin: allow, not permitted, not implemented
    allow, deny, missing = end, end + 1, end + 2
    code = []

    def put(operation: int, value: int, true: int | None = None, false: int | None = None) -> None:
        jump = lambda target: 0 if target is None else target - len(code) - 1  # noqa: E731
        code.append(struct.pack("=HBBI", operation, jump(true), jump(false), value))

    put(load, 4)  # the calling convention
    put(equal, ARCHITECTURE[machine], None, deny)
    put(load, 0)  # the number of the call
    put(at_least, 0x40000000, deny)  # x32, a second set of numbers
    for number in forbidden:
        put(equal, number, deny)
    put(equal, CLONE3, missing)  # its flags lie in memory; the C library falls back on clone
    put(equal, CLONE[machine], None, allow)
    put(load, 16)  # clone's flags
    put(has_bit, ANY_NAMESPACE, deny, allow)
    put(answer, 0x7FFF0000)
    put(answer, 0x50000 | 1)  # EPERM
    put(answer, 0x50000 | 38)  # ENOSYS
    return b"".join(code)


def confine(request: dict, way: str) -> None:
    """Takes everything from this process that the program must not have. Nothing here can be undone."""
    limits = request["limits"]
    if way != "bare":
        if os.getuid() != NOBODY:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        call("unshare", NEWUSER)
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))  # SIGXCPU, then SIGKILL
    for name, limit in (
        ("RLIMIT_AS", limits["memory"]),
        ("RLIMIT_FSIZE", limits["file"]),
        ("RLIMIT_NPROC", limits["processes"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_MEMLOCK", 0),
        ("RLIMIT_CORE", 0),
    ):
        with contextlib.suppress(ValueError if way == "bare" else ()):  # below it already
            resource.setrlimit(getattr(resource, name), (limit, limit))
    if sys.platform == "linux":
        call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if way != "bare":
        code = filter_program(os.uname().machine)
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        address = ctypes.create_string_buffer(program)
        call("prctl", SECCOMP, 2, ctypes.addressof(address), 0, 0)


def init(request: dict, way: str) -> int:
    """Runs the program as a child and waits for it -> an exit status. Its output goes where 1 points."""
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)  # instead of the request
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a handler, process 1 hears no signal from inside
    os.chdir(request["scratch"] if way == "bare" else SCRATCH)
    with open("program.py", "x", encoding="utf-8", errors="surrogatepass") as file:
        file.write(request["program"])
    os.chmod("program.py", 0o444)
    heard, complaint = os.pipe()
    this, program = os.getpid(), os.fork()
    if program == 0:
        try:
            die_with(this)
            os.dup2(1, 2)
            os.closerange(3, complaint)
            os.closerange(complaint + 1, 1024)
            confine(request, way)
            os.execve(request["python"], [request["python"], "-I", "-S", "program.py"], {})
        except BaseException as error:
            os.write(complaint, str(error).encode()[:1000])
        finally:
            os._exit(UNCONFINED)
    os.close(complaint)
    problem = os.read(heard, 1000)  # empty as soon as the program has begun
    if problem:
        os.write(2, problem)
        return UNCONFINED
    while True:
        pid, status, used = os.wait4(-1, 0)
        if pid == program:
            break
    if os.WIFSIGNALED(status):
        spent = used.ru_utime + used.ru_stime  # the limit goes by clock ticks, which differ from it
        late = os.WTERMSIG(status) == signal.SIGXCPU or (
            os.WTERMSIG(status) == signal.SIGKILL and spent > request["limits"]["cpu"] / 2
        )
        return CODES["timeout" if late else "killed"]
    return CODES["ok" if os.WEXITSTATUS(status) == 0 else "failed"]


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the parent, whose id is given as seen from here, ends: more exactly the
    parent's thread that started it. Linux only."""
    if sys.platform == "linux":
        call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def enter() -> None:
    """Moves this process into new namespaces, all but the one of process ids, which its children will be in."""
    launcher, root = os.getpid(), os.geteuid() == 0
    begin, go = os.pipe()
    helper = os.fork()
    if helper == 0:  # stays outside, from where alone the ids can be mapped
        try:
            os.close(go)
            os.read(begin, 1)
            maps = [(f"{NOBODY} {os.geteuid()} 1", f"{NOBODY} {os.getegid()} 1", "deny")]
            if root:  # 0 sees the files that root sees, to mount them
                maps.insert(0, (f"0 0 1\n{NOBODY} {NOBODY} 1", f"0 0 1\n{NOBODY} {NOBODY} 1", "allow"))
            for uids, gids, groups in maps:
                with contextlib.suppress(PermissionError):
                    for name, text in (("setgroups", groups), ("gid_map", gids), ("uid_map", uids)):
                        with open(f"/proc/{launcher}/{name}", "w") as file:
                            file.write(text)
                    os._exit(0)
        finally:
            os._exit(1)
    call("unshare", NEWUSER | NEWPID | NEWNET | NEWNS | NEWIPC | NEWUTS)
    os.write(go, b".")
    if os.waitpid(helper, 0)[1]:
        raise PermissionError("the ids of the user namespace could not be mapped")
    os.close(begin)
    os.close(go)


def visible(prefixes: list[str]) -> list[str]:
    """The folders that Python needs, as real paths, none inside another."""
    paths = sorted({os.path.realpath(path) for path in ("/usr", "/lib", "/lib64", *prefixes) if os.path.exists(path)})
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def links() -> dict[str, str]:
    """Folders of the root that are links to elsewhere: the loader of every program is written as /lib64/..."""
    return {path: os.readlink(path) for path in ("/lib", "/lib64") if os.path.islink(path)}


def mount_root(request: dict) -> None:
    """Makes a small read-only file system of what Python needs and a scratch folder the root, and nothing else."""
    call("sethostname", b"sandbox", 7)
    call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
    call("mount", b"none", ROOT.encode(), b"tmpfs", NOSUID | NODEV, b"mode=755")
    for path, target in links().items():
        os.symlink(target, ROOT + path)
    for path in visible(request["prefixes"]):
        os.makedirs(ROOT + path)
        call("mount", path.encode(), (ROOT + path).encode(), None, BIND | RECURSIVE, None)
    os.mkdir(ROOT + "/dev")
    open(ROOT + "/dev/null", "x").close()
    os.mkdir(ROOT + SCRATCH)
    read_only = struct.pack("=QQQQ", READ_ONLY, 0, 0, 0)
    at_cwd, recursive = -100, 0x8000
    call("syscall", MOUNT_SETATTR, at_cwd, ROOT.encode(), recursive, read_only, len(read_only))
    call("mount", b"/dev/null", (ROOT + "/dev/null").encode(), None, BIND, None)
    size = f"mode=1777,size={request['room']},nr_inodes=1000"
    call("mount", b"none", (ROOT + SCRATCH).encode(), b"tmpfs", NOSUID | NODEV, size.encode())
    os.chdir(ROOT)
    call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", DETACH)


def bubblewrap(request: dict) -> list[str]:
    """The command that does with bwrap what `enter` and `mount_root` do."""
    command = [request["bubblewrap"], "--die-with-parent", "--as-pid-1", "--clearenv"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    if os.geteuid() == 0:  # would be 0 in a user namespace of bwrap's, which can map one id only
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    for path, target in links().items():
        command += ["--symlink", target, path]
    for path in visible(request["prefixes"]):
        for end in (i for i, letter in enumerate(path) if i and letter == "/"):
            command += ["--perms", "0755", "--dir", path[:end]]  # which bwrap makes for root alone
        command += ["--ro-bind", path, path]
    command += ["--perms", "0755", "--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null", "--hostname", "sandbox"]
    command += ["--perms", "1777", "--size", str(request["room"]), "--tmpfs", SCRATCH, "--remount-ro", "/"]
    return [*command, request["python"], "-I", "-S", "-c", START, "init", "bubblewrap"]


def start(request: dict, way: str, output: int) -> int:
    """Starts the init of a sandbox, its output going to a pipe -> the id of the process whose end is the sandbox's."""
    if way == "bubblewrap":
        told = os.memfd_create("request")
        os.write(told, marshal.dumps(request))
        os.lseek(told, 0, os.SEEK_SET)
    if way == "kernel":
        enter()
        mount_root(request)
    launcher, child = os.getpid(), os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        die_with(0 if way == "kernel" else launcher)  # which a new namespace of process ids does not see
        os.dup2(output, 1)
        if way == "bubblewrap":
            os.dup2(told, 0)
            command = bubblewrap(request)
            os.execv(command[0], command)
        os._exit(init(request, way))
    except Exception as error:
        os.write(2, str(error).encode())
    finally:
        os._exit(UNCONFINED)


def watch(child: int, output: int, limits: dict) -> tuple[str | None, bytes]:
    """Reads the output until the sandbox ends or must be ended -> (why it must, or None; the output)."""
    deadline, said = time.monotonic() + limits["wall"], b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([output], [], [], left)[0]:
            more = os.read(output, 65536)
            said += more
            if len(said) > limits["output"]:
                return "killed", said[: limits["output"]]
            if not more:  # all have closed it, which need not mean that they are gone
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return None, said
                time.sleep(0.002)
    return "timeout", said


def clear(child: int) -> int:
    """Kills what is left of a sandbox and waits until nobody is -> the wait status of the child."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    ended = 0
    while True:
        listed = ""
        with contextlib.suppress(FileNotFoundError):  # those that outlived their parents are ours now
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                listed = file.read()
        for pid in {child, *map(int, listed.split())}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return ended
        if pid == child:
            ended = status


def main(request: dict, way: str) -> int:
    """Runs the program of a request, its status and output going to stdout -> an exit status."""
    die_with(request["parent"])
    if sys.platform == "linux":
        call("prctl", SUBREAPER, 1, 0, 0, 0)
    output, end = os.pipe()
    child = start(request, way, end)
    os.close(end)
    reason, said = watch(child, output, request["limits"])
    code = os.waitstatus_to_exitcode(clear(child))
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        reason = reason or "killed"  # init itself, by a machine that is out of memory
    if reason is None and code not in STATUSES:
        return 1  # stderr says why
    sys.stdout.buffer.write(f"{reason or STATUSES[code]}\n".encode() + said)
    return 0
