"""Runs one program in isolation. A script of its own (`python -I -S isolation.py PLAN`), started by those who run what nobody
read: code of a language model (`capabilities/text/sandbox.py`), pickled checkpoints (`capabilities/weather/published`).

Standard library only, and nothing of this package: it runs before anything is trusted. `PLAN` is JSON: what `Plan` holds. The
script shuts itself off, starts the program and tells on the descriptor `report` how that went: `ready` just before the program
starts, `failed WHY` where the isolation could not be built (the program is then never started), `exit CODE` or `signal NUMBER`
when it is over.

Layers, each of which is applied only where the plan names it, and then must succeed:

`namespaces` (user_namespaces(7), pid_namespaces(7), network_namespaces(7), pivot_root(2)): a file system with nothing but
    Python and what the plan names, no network, no sight of other processes; all of the program's processes die with it. An
    ordinary user makes a user namespace for it; root drops to a user id that nobody else has.
`landlock` (landlock(7), from ABI 3, Linux 6.2): no file but Python's, those that the plan names and those in the work folder
    can be opened.
`seccomp` (seccomp(2)): no sockets, no new processes, no signals to others, none of the calls that change other files'
    attributes or that are a common way out.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAMESPACES, LANDLOCK, SECCOMP = "namespaces", "landlock", "seccomp"

#: Where the program and its work folder are inside the namespaces.
_PROGRAM, _BOX = "/program.py", "/box"
#: What any interpreter reads: the C library, the loader, time zones.
SYSTEM_FILES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
#: From here on user ids stand for nobody (below 2^31, above what systems and container run-times give out).
_FIRST_FREE_UID = 2_000_000_000

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 1, 38, 22, 24, 47
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_LL_CREATE, _LL_ADD, _LL_RESTRICT = 444, 445, 446
_LL_EXECUTE, _LL_WRITE_FILE, _LL_READ_FILE, _LL_READ_DIR, _LL_TRUNCATE, _LL_IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
#: The first ABI that also guards truncation, without which a file can be emptied that cannot be opened for writing.
LANDLOCK_ABI = 3

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Plan:
    """What is run, and how. `root` holds `program.py` and the empty folder `box`.

    `readable` are files and folders, `writable` files that exist: beside them nothing can be made, so that with `file_bytes`
    what they can hold is known. `box` is for scratch; in namespaces it holds `box_bytes` at most, elsewhere its owner looks.
    """

    root: str
    python: str
    readable: list[str]
    report: int
    parent: int
    cpu_s: int
    memory_bytes: int
    file_bytes: int
    layers: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)
    #: How the interpreter starts; -S leaves installed packages out.
    flags: list[str] = field(default_factory=lambda: ["-I", "-S", "-B", "-X", "utf8"])
    environment: dict[str, str] = field(default_factory=dict)
    box_bytes: int = 64 << 20
    box_files: int = 4096
    #: Root stays root, without any capability, instead of becoming nobody: files that only their owner reads are readable.
    keeps_user: bool = False
    tasks: int = 64
    open_files: int = 64


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, *arguments: object, what: str) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def _prctl(option: int, second: int = 0, third: object = 0, what: str = "prctl") -> None:
    third = third if not isinstance(third, int) else ctypes.c_ulong(third)
    _check(_libc.prctl(option, ctypes.c_ulong(second), third, ctypes.c_ulong(0), ctypes.c_ulong(0)), what)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    data = None if options is None else options.encode()
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), data), f"mount {target}")


# Namespaces


def enter_namespaces(plan: Plan, uid: int) -> None:
    """A new file system, network, process table, host name and shared memory, for this process and those it starts."""
    program = Path(plan.root, "program.py").read_bytes()
    kinds = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
    group = os.getegid()
    if os.geteuid() != 0:
        _check(_libc.unshare(kinds | _CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    else:
        _check(_libc.unshare(kinds), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    root = plan.root + "/box"
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={len(program) + (4 << 20)},nr_inodes=4096,mode=755")
    for path in [*plan.readable, plan.python]:
        _show(root, path, read_only=True)
    for path in [*plan.writable, *_DEVICES]:
        _show(root, path, read_only=False)
    Path(root + _PROGRAM).write_bytes(program)
    Path(root + _PROGRAM).chmod(0o444)
    Path(root + _BOX).mkdir()
    owner = f",uid={uid},gid={uid}" if os.geteuid() == 0 else ""
    box_options = f"size={plan.box_bytes},nr_inodes={plan.box_files},mode=700{owner}"
    _mount("tmpfs", root + _BOX, "tmpfs", _MS_NOSUID | _MS_NODEV, box_options)
    _mount("none", root, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir(root)
    # The old root is put on top of the new one, then taken off (pivot_root(2), "pivot_root(".", ".")").
    _syscall(_PIVOT_ROOT[platform.machine()], b".", b".", what="pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir(_BOX)


def _show(root: str, path: str, *, read_only: bool) -> None:
    """Make a file or folder of this system visible at the same place under the new root."""
    target = Path(root + path)
    if not os.path.lexists(path) or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_symlink():  # /lib is usr/lib on most systems
        if not os.path.lexists(target):
            target.symlink_to(Path(path).readlink())
        return
    if Path(path).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount(path, str(target), None, _MS_BIND | _MS_REC)
    if read_only:
        kept = _MS_NOEXEC if os.statvfs(path).f_flag & os.ST_NOEXEC else 0  # may not be taken away by an ordinary user
        _mount("none", str(target), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | kept)


# Landlock


def landlock_abi() -> int:
    """The version of Landlock that the kernel has; 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc.syscall(ctypes.c_long(_LL_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def restrict_files(readable: list[str], box: str, writable: Sequence[str] = ()) -> None:
    """Let no file be opened from now on but the readable and writable ones, some devices, and everything under `box`."""
    abi = landlock_abi()
    if abi < LANDLOCK_ABI:
        raise OSError(f"landlock: the kernel has version {abi}, {LANDLOCK_ABI} is needed")
    every = (1 << 15) - 1 | (_LL_IOCTL_DEV if abi >= 5 else 0)
    # Files; from ABI 4 TCP bind and connect; from ABI 6 abstract sockets and signals to processes outside.
    attributes = (
        struct.pack("Q", every) + (struct.pack("Q", 3) if abi >= 4 else b"") + (struct.pack("Q", 3) if abi >= 6 else b"")
    )
    rules = _syscall(_LL_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0), what="landlock")
    try:
        for path in readable:
            _allow(rules, path, _LL_EXECUTE | _LL_READ_FILE | _LL_READ_DIR)
        for path in _DEVICES:
            _allow(rules, path, _LL_READ_FILE | _LL_WRITE_FILE)
        for path in writable:
            _allow(rules, path, _LL_READ_FILE | _LL_WRITE_FILE | _LL_TRUNCATE)
        _allow(rules, box, every & ~(_LL_EXECUTE | _LL_IOCTL_DEV))
        _syscall(_LL_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0), what="landlock")
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not Path(path).is_dir():
            access &= _LL_EXECUTE | _LL_READ_FILE | _LL_WRITE_FILE | _LL_TRUNCATE
        rule = struct.pack("=Qi", access, place)
        _syscall(_LL_ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint32(0), what=f"landlock {path}")
    finally:
        os.close(place)


# Seccomp

_EPERM, _ENOSYS = 1, 38
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LD, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: The first call that is not known here; Python needs none that is newer.
_FIRST_UNKNOWN = 463
_CLONE_THREAD, _SOCK_STREAM = 0x00010000, 1

#: name: numbers on x86_64 and aarch64 (-1: has none). Every one of them fails with EPERM.
_FORBIDDEN: dict[str, tuple[int, int]] = {
    # network and other processes' sockets
    **{"socket": (41, 198), "bind": (49, 200), "connect": (42, 203), "listen": (50, 201)},
    # processes; threads are made with clone, see below
    **{"fork": (57, -1), "vfork": (58, -1)},
    # other processes
    **{"tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117)},
    **{"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_open": (434, 434)},
    **{
        "pidfd_send_signal": (424, 424),
        "pidfd_getfd": (438, 438),
        "process_madvise": (440, 440),
        "process_mrelease": (448, 448),
    },
    **{"setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119)},
    **{"sched_setparam": (142, 118), "sched_setattr": (314, 274), "migrate_pages": (256, 238), "move_pages": (279, 239)},
    # memory that is not counted, or that others can see
    **{"shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "msgget": (68, 186)},
    **{"mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279), "memfd_secret": (447, 447)},
    # attributes of files that cannot be opened
    **{"chmod": (90, -1), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1), "lchown": (94, -1)},
    **{"fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14)},
    **{"lremovexattr": (198, 15), "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88)},
    # ways out
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41)},
    **{"chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431)},
    **{"fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264)},
    **{"open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282)},
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217)},
    **{"request_key": (249, 218), "keyctl": (250, 219), "personality": (135, 92), "modify_ldt": (154, -1)},
    **{"fanotify_init": (300, 262), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106)},
    **{
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "reboot": (169, 142),
        "swapon": (167, 224),
        "swapoff": (168, 225),
    },
    **{"acct": (163, 89), "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112), "syslog": (103, 116)},
    **{"adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162)},
    **{"iopl": (172, -1), "ioperm": (173, -1)},
}


def filter_calls(pid: int) -> None:
    """Let forbidden system calls fail from now on, and those of another architecture end the process."""
    program = b"".join(struct.pack("=HBBI", *step) for step in _steps(pid, platform.machine()))
    steps = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(steps)))
    _prctl(_PR_SET_SECCOMP, 2, header, what="seccomp")


def _steps(pid: int, machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as classic BPF for `struct seccomp_data`: number at 0, architecture at 4, arguments of 8 bytes from 16 on."""
    if machine not in _AUDIT:
        raise OSError(f"seccomp: the system calls of {machine} are not known")
    column = list(_AUDIT).index(machine)
    refuse, allow = (_RET, 0, 0, _RET_ERRNO | _EPERM), (_RET, 0, 0, _RET_ALLOW)
    steps = [(_LD, 0, 0, 4), (_JEQ, 1, 0, _AUDIT[machine]), (_RET, 0, 0, _RET_KILL), (_LD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 numbers, a second way to every call
        steps += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _RET_KILL)]
    steps += [(_JGE, 0, 1, _FIRST_UNKNOWN), (_RET, 0, 0, _RET_ERRNO | _ENOSYS)]
    # clone3 has its flags in memory, where a filter cannot look; the C library then takes clone.
    steps += [(_JEQ, 0, 1, 435), (_RET, 0, 0, _RET_ERRNO | _ENOSYS)]
    for numbers in _FORBIDDEN.values():
        if numbers[column] >= 0:
            steps += [(_JEQ, 0, 1, numbers[column]), refuse]

    def when(number: int, argument: int, *test: tuple[int, int, int, int]) -> None:
        body = [(_LD, 0, 0, 16 + 8 * argument), *test]
        steps.extend([(_JEQ, 0, len(body), number), *body])

    only_self = ((_JEQ, 0, 1, pid), allow, refuse)
    when((62, 129)[column], 0, *only_self)  # kill
    when((234, 131)[column], 0, *only_self)  # tgkill
    when((302, 261)[column], 0, (_JEQ, 0, 1, 0), allow, refuse)  # prlimit64
    when((56, 220)[column], 0, (_JSET, 0, 1, _CLONE_THREAD), allow, refuse)  # clone
    # Only a stream pair cannot be turned to another address.
    when((53, 199)[column], 1, (_AND, 0, 0, 0xF), (_JEQ, 0, 1, _SOCK_STREAM), allow, refuse)  # socketpair
    when((157, 167)[column], 0, (_JEQ, 0, 1, _PR_SET_PDEATHSIG), refuse, allow)  # prctl
    # F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP, TIOCSTI: signals and input for others
    when((72, 25)[column], 1, (_JEQ, 2, 0, 8), (_JEQ, 1, 0, 10), (_JEQ, 0, 1, 15), refuse, allow)
    when((16, 29)[column], 1, (_JEQ, 2, 0, 0x8901), (_JEQ, 1, 0, 0x8902), (_JEQ, 0, 1, 0x5412), refuse, allow)
    return [*steps, allow]


# Everything together


def _drop_privileges(uid: int) -> None:
    """Give up root's identity where the namespaces gave a new one, and every capability in any case."""
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if not sys.platform.startswith("linux"):
        return
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, what="no_new_privs")
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # fails where there is nothing to drop
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0)
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check(_libc.capset(header, nothing), "capset")


def _limit(plan: Plan, tasks: int) -> None:
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, plan.cpu_s),
        (resource.RLIMIT_FSIZE, plan.file_bytes),
        (resource.RLIMIT_NOFILE, plan.open_files),
        (resource.RLIMIT_NPROC, tasks),
        (resource.RLIMIT_AS, plan.memory_bytes),
    ]
    for which, value in limits:
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        last = value + 1 if which == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else value
        resource.setrlimit(which, (value, last))  # processor time: a signal that tells, a second later one that ends


def _num_tasks() -> int:
    """How many threads this user has now: outside a namespace the limit counts them all."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == os.getuid():
                total += sum(1 for _ in (entry / "task").iterdir())
        except OSError:
            continue
    return total


def _become(plan: Plan, uid: int) -> None:
    """Turn this process into the program; never returns."""
    if NAMESPACES in plan.layers:
        program, box, tasks = _PROGRAM, _BOX, plan.tasks
    else:
        program, box, tasks = plan.root + "/program.py", plan.root + "/box", _num_tasks() + plan.tasks
        os.chdir(box)
    _follow_parent()
    _drop_privileges(uid)
    if LANDLOCK in plan.layers:
        restrict_files([*plan.readable, plan.python, program], box, plan.writable)
    os.set_inheritable(plan.report, False)
    arguments = [plan.python, *plan.flags, program]
    environment = {"PATH": "/usr/bin:/bin", "HOME": box, "TMPDIR": box, "LANG": "C.UTF-8", **plan.environment}
    if SECCOMP in plan.layers:
        filter_calls(os.getpid())
    _limit(plan, tasks)
    os.write(plan.report, b"ready\n")
    os.execve(plan.python, arguments, environment)  # noqa: S606 - no shell is wanted


def _follow_parent() -> None:
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(plan: Plan, uid: int) -> int:
    """Start the program; returns its process id. What keeps it from starting is reported."""
    pid = os.fork()
    if pid == 0:
        try:
            _become(plan, uid)
        except BaseException as error:
            _fail(plan.report, error)
        os._exit(1)
    return pid


def _wait(plan: Plan, pid: int) -> None:
    """Wait for the program (and, as the first process of a namespace, for whatever it left behind) and report."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            break
    code = os.waitstatus_to_exitcode(status)
    os.write(plan.report, (f"exit {code}\n" if code >= 0 else f"signal {-code}\n").encode())


def _fail(report: int, error: BaseException) -> None:
    os.write(report, f"failed {type(error).__name__}: {error}\n".replace("\n", " ").encode() + b"\n")


def main() -> None:
    """Isolate, start, wait."""
    plan = Plan(**json.loads(sys.argv[1]))
    try:
        _follow_parent()
        if os.getppid() != plan.parent:
            return  # died between the start and here
        if sys.platform.startswith("linux"):
            Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go where memory is short
        if NAMESPACES not in plan.layers:
            _wait(plan, _start(plan, os.geteuid()))
            return
        uid = os.geteuid() if plan.keeps_user else os.geteuid() or _FIRST_FREE_UID + os.getpid()
        enter_namespaces(plan, uid)
        first = os.fork()  # the first process of the new table: when it ends, the kernel ends all others there
        if first == 0:
            _follow_parent()
            _wait(plan, _start(plan, uid))
            os._exit(0)
        os.waitpid(first, 0)
    except BaseException as error:
        _fail(plan.report, error)


if __name__ == "__main__":
    main()
