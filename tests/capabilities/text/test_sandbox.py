"""The sandbox, attacked."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import pytest

from modelworks.capabilities.text import sandbox
from modelworks.capabilities.text.sandbox import STRONG, Layer, Outcome, active_layers, run_python
from modelworks.isolation import LANDLOCK_ABI, landlock_abi, restrict_files


def works(layers: tuple[Layer, ...]) -> bool:
    return run_python("print(1)", layers=layers, timeout_s=10).stdout == "1\n"


#: Two ways to isolate that have nothing in common but the limits, and all together; those that this machine has.
WAYS = [layers for layers in (STRONG[0], ("landlock", "seccomp"), ("namespaces",)) if works(layers)]
every_way = pytest.mark.parametrize("layers", WAYS, ids="+".join)
#: Where processes cannot be started at all.
filtered_way = pytest.mark.parametrize("layers", [way for way in WAYS if "seccomp" in way], ids="+".join)


def attack(layers: tuple[Layer, ...], code: str, **options: object) -> Outcome:
    return run_python(textwrap.dedent(code), layers=layers, **{"timeout_s": 10.0, **options})  # type: ignore[arg-type]


def tried(layers: tuple[Layer, ...], *attempts: str, first: str = "") -> list[str]:
    """What each attempt ends in, one after the other in one program: the name of the exception, or `done`."""
    code = f"""
{first}
for attempt in {attempts!r}:
    try:
        exec(attempt)
    except BaseException as error:
        print(type(error).__name__, flush=True)
    else:
        print("done", flush=True)
"""
    outcome = attack(layers, code)
    results = outcome.stdout.split()
    assert len(results) == len(attempts), outcome
    return results


def test_something_isolates_here_or_nothing_runs() -> None:
    outcome = run_python("print('hello')")
    if active_layers() is None:
        assert outcome.status == "refused"
        assert "allow_weaker_sandbox" in outcome.stderr
    else:
        assert (outcome.status, outcome.stdout, outcome.layers) == ("ok", "hello\n", active_layers())


def test_where_nothing_isolates_code_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "STRONG", ())
    active_layers.cache_clear()
    proof = tmp_path / "proof"
    code = f"open({str(proof)!r}, 'w').close(); print('ran')"
    try:
        refused = run_python(code)
        assert refused.status == "refused"
        assert refused.layers == ()
        assert not proof.exists()
        assert run_python("print('ran')", allow_weaker_sandbox=True).stdout == "ran\n"
    finally:
        active_layers.cache_clear()


def test_an_isolation_that_cannot_be_built_is_no_permission_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "isolation.py"
    source = Path(sandbox._ISOLATION).read_text().replace("_check(_libc.capset(", "_check(-1 + 0 * _libc.capset(")
    broken.write_text(source)
    monkeypatch.setattr(sandbox, "_ISOLATION", broken)
    outcome = run_python("print('ran')", layers=WAYS[0])
    assert outcome.status == "refused"
    assert "capset" in outcome.stderr
    assert outcome.stdout == ""


@every_way
def test_a_program_reads_its_input_and_writes(layers: tuple[Layer, ...]) -> None:
    outcome = attack(layers, "import sys\nprint(sys.stdin.read()[::-1])\nprint('旁', file=sys.stderr)", stdin="三二一")
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "一二三\n", "旁\n")
    assert not outcome.truncated
    assert 0 < outcome.wall_s < 10


@every_way
def test_no_input_is_the_end_of_input(layers: tuple[Layer, ...]) -> None:
    outcome = attack(layers, "input()")
    assert outcome.status == "error"
    assert "EOFError" in outcome.stderr


@every_way
def test_input_that_nobody_reads_blocks_nothing(layers: tuple[Layer, ...]) -> None:
    assert attack(layers, "print('bye')", stdin="x" * (4 << 20)).stdout == "bye\n"


@every_way
@pytest.mark.parametrize(
    ("code", "said"),
    [("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError"), ("raise SystemExit(3)", ""), ("import os; os.abort()", "SIGABRT")],
)
def test_a_program_that_fails_is_an_error(layers: tuple[Layer, ...], code: str, said: str) -> None:
    outcome = attack(layers, code)
    assert outcome.status == "error"
    assert said in outcome.stderr


@every_way
def test_text_that_is_no_unicode_and_a_nul_are_told(layers: tuple[Layer, ...]) -> None:
    assert attack(layers, "print('\\ud800')").status == "error"
    assert attack(layers, "x = '\ud800'").status == "error"
    assert attack(layers, "x = 1\0").status == "error"
    raw = attack(layers, "import sys; sys.stdout.buffer.write(bytes([255, 254]))")
    assert (raw.status, raw.stdout) == ("ok", "\ufffd\ufffd")


@every_way
@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(60)", "import sys; sys.stdin.read(); [0 for _ in iter(int, 1)]"]
)
def test_an_endless_program_is_ended(layers: tuple[Layer, ...], code: str) -> None:
    outcome = attack(layers, code, timeout_s=0.5)
    assert outcome.status == "timeout"
    assert outcome.wall_s < 10


@every_way
def test_signals_that_are_ignored_do_not_help(layers: tuple[Layer, ...]) -> None:
    code = """
        import signal
        for number in range(1, 32):
            if number not in (9, 19):
                signal.signal(number, signal.SIG_IGN)
        while True: pass
    """
    assert attack(layers, code, timeout_s=0.5).status == "timeout"


@every_way
@pytest.mark.parametrize("code", ["x = bytearray(1 << 31)", "x = []\nwhile True: x.append(bytearray(1 << 24))"])
def test_a_memory_bomb_is_told(layers: tuple[Layer, ...], code: str) -> None:
    outcome = attack(layers, code, memory_bytes=256 << 20)
    assert outcome.status == "memory", outcome


@every_way
def test_output_is_cut(layers: tuple[Layer, ...]) -> None:
    outcome = attack(layers, "for _ in range(200): print('x' * 100_000)", max_output_bytes=1000)
    assert (outcome.status, len(outcome.stdout), outcome.truncated) == ("ok", 1000, True)
    endless = attack(layers, "while True: print('x' * 100_000)", timeout_s=0.5, max_output_bytes=1000)
    assert (endless.status, len(endless.stdout)) == ("timeout", 1000)


@filtered_way
def test_no_process_can_be_started(layers: tuple[Layer, ...]) -> None:
    results = tried(
        layers,
        "import os; os.fork()",
        "import os; os.posix_spawn('/usr/bin/true', ['true'], {})",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
    )
    assert set(results) <= {"PermissionError", "FileNotFoundError"}
    assert results[0] == "PermissionError"


@every_way
def test_a_fork_bomb_comes_to_nothing(layers: tuple[Layer, ...]) -> None:
    name = f"bomb{uuid.uuid4().hex[:8]}"
    outcome = attack(
        layers, named(name) + "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n", timeout_s=1
    )
    assert outcome.status == "timeout"
    assert not left_with(name)


@every_way
def test_nothing_stays_behind(layers: tuple[Layer, ...]) -> None:
    name = f"stay{uuid.uuid4().hex[:8]}"
    code = """
        import os, time
        try:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(300)
                os._exit(0)
        except OSError:
            pass
        print('left')
    """
    assert attack(layers, named(name) + textwrap.dedent(code)).stdout == "left\n"
    assert not left_with(name)


def named(name: str) -> str:
    """Code by which a process, and those that it starts, are found from outside."""
    return f"import ctypes; ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0)\n"


def left_with(name: str) -> list[str]:
    """Processes of that name that are still there after some seconds."""
    for _ in range(50):
        found = [comm.parent.name for comm in Path("/proc").glob("[0-9]*/comm") if name_of(comm) == name]
        if not found:
            break
        time.sleep(0.1)
    return found


def name_of(comm: Path) -> str:
    try:
        return comm.read_text().strip()
    except OSError:
        return ""


@every_way
def test_threads_can_be_started_but_not_without_end(layers: tuple[Layer, ...]) -> None:
    some = """
        import threading
        threads = [threading.Thread(target=print, args=("x",)) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    assert attack(layers, some).stdout == "x\n" * 8
    bomb = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    assert attack(layers, bomb, timeout_s=3, memory_bytes=256 << 20).status in ("error", "timeout", "memory")


@every_way
def test_files_of_the_platform_cannot_be_read(
    layers: tuple[Layer, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "modelworks.db"
    secret.write_text("secret")
    secret.chmod(0o666)
    own = f"/proc/{os.getpid()}/environ"
    paths = (secret, tmp_path, Path.home(), Path.home() / ".ssh", "/etc/passwd", "/proc/1/environ", own, "/tmp", __file__)
    looks = [f"import os; p = {str(path)!r}; os.listdir(p) if os.path.isdir(p) else open(p).read()" for path in paths]
    results = dict(zip(map(str, paths), tried(layers, *looks, "import modelworks"), strict=False))
    home = results.pop(str(Path.home()))
    assert set(results.values()) <= {"PermissionError", "FileNotFoundError"}, results
    # Python itself may be installed in the home folder, of which then nothing else is there.
    assert home in ("PermissionError", "FileNotFoundError") or "namespaces" in layers
    monkeypatch.setenv("MODELWORKS_API_KEY", "sk-secret")
    assert "secret" not in attack(layers, "import os; print(dict(os.environ))").stdout
    assert tried(layers, "import modelworks", "import pydantic") == ["ModuleNotFoundError"] * 2


@every_way
def test_links_lead_nowhere(layers: tuple[Layer, ...], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = str(secret)
    results = tried(
        layers,
        f"import os; os.symlink({path!r}, 'link'); open('link').read()",
        f"import os; os.link({path!r}, 'hard'); open('hard').read()",
        "import os; os.chdir('/'); os.chroot('.')",
    )
    assert set(results) <= {"PermissionError", "FileNotFoundError", "OSError"}
    # What is tidied up afterwards is the link, never what it leads to.
    attack(layers, f"import os\nos.symlink({str(tmp_path)!r}, 'folder')\nos.mkdir('closed', 0)")
    assert secret.read_text() == "secret"


@every_way
def test_nothing_outside_can_be_written_or_changed(layers: tuple[Layer, ...], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    target = tmp_path / "target"
    target.write_text("as it was")
    target.chmod(0o666)
    before = target.stat()
    attempts = (
        "open(p, 'w')",
        "open(p, 'a')",
        "os.truncate(p, 0)",
        "os.open(p, os.O_RDONLY | os.O_TRUNC)",
        "os.remove(p)",
        "os.rename(p, 'mine')",
        "os.chmod(p, 0)",
        "os.utime(p, (1, 1))",
        "os.setxattr(p, 'user.x', b'1')",
        "open(p + '.new', 'w')",
        "os.mkdir(p + '.d')",
        "open('/usr/lib/mine', 'w')",
    )
    results = tried(layers, *attempts, first=f"import os\np = {str(target)!r}")
    assert set(results) <= {"PermissionError", "FileNotFoundError", "OSError"}, dict(zip(attempts, results, strict=True))
    after = target.stat()
    assert target.read_text() == "as it was"
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@every_way
def test_the_work_folder_is_empty_its_own_and_bounded(layers: tuple[Layer, ...]) -> None:
    code = """
        import os
        print(os.listdir())
        open('a', 'w').write('1')
        os.mkdir('d')
        open('d/b', 'w').write(open('a').read())
        print(os.getcwd())
    """
    first, second = attack(layers, code), attack(layers, code)
    assert first.status == second.status == "ok"
    assert first.stdout.startswith("[]\n")
    assert second.stdout.startswith("[]\n")
    if "namespaces" not in layers:
        assert not Path(first.stdout.splitlines()[1]).exists()
    large = attack(layers, "with open('x', 'wb') as file:\n    for _ in range(1000): file.write(bytes(1 << 20)); file.flush()")
    assert large.status == "error"
    many = "n = 0\nwhile True:\n    n += 1\n    with open(f'f{n}', 'wb') as file: file.write(bytes(1 << 20))"
    assert attack(layers, many).status == "error"


def test_a_work_folder_of_any_depth_is_tidied_up() -> None:
    way = next((way for way in WAYS if "namespaces" not in way), None) or ()
    code = """
import os
print(os.getcwd(), flush=True)
for _ in range(1200):
    os.mkdir('d')
    os.chdir('d')
os.mkdir('closed', 0)
"""
    outcome = run_python(code, layers=way, timeout_s=20)
    folder = Path(outcome.stdout.splitlines()[0])
    assert folder.name == "box"
    assert not folder.parent.exists()


@every_way
def test_no_network(layers: tuple[Layer, ...]) -> None:
    name = f"\0modelworks-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        port = server.getsockname()[1]
        results = tried(
            layers,
            f"socket.create_connection(('127.0.0.1', {port}), timeout=2)",
            f"socket.create_connection(('localhost', {port}), timeout=2)",
            "socket.create_connection(('::1', 1), timeout=2)",
            f"s = socket.socket(socket.AF_UNIX); s.connect({name!r})",
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('192.0.2.1', 9))",
            first="import socket",
        )
        assert set(results) <= {"PermissionError", "OSError", "ConnectionRefusedError", "gaierror"}
        for listening in (server, local):
            listening.settimeout(0)
            with pytest.raises(BlockingIOError):
                listening.accept()


@every_way
def test_the_parent_cannot_be_killed(layers: tuple[Layer, ...]) -> None:
    kills = [f"os.kill({pid}, {number})" for pid in (os.getpid(), "os.getppid()", -1, 1) for number in (15, 9)]
    results = tried(layers, *kills, first="import os")
    if "seccomp" in layers:
        assert set(results) == {"PermissionError"}
    # Without the filter: the first process of a namespace is not to be killed from inside, and there is no other.
    assert attack(layers, "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)").status == "error"


@filtered_way
def test_other_ways_to_disturb_others_are_closed(layers: tuple[Layer, ...]) -> None:
    me = os.getpid()
    *closed, loop = tried(
        layers,
        f"fcntl.fcntl(r, fcntl.F_SETOWN, {me})",
        "fcntl.fcntl(r, 10, 9)",
        f"resource.prlimit({me}, resource.RLIMIT_NOFILE, (0, 0))",
        f"os.sched_setaffinity({me}, {{0}})",
        f"os.pidfd_open({me})",
        "os.memfd_create('x')",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        first="import fcntl, os, resource\nr, w = os.pipe()",
    )
    assert set(closed) == {"PermissionError"}
    assert loop == "done"


@every_way
def test_limits_cannot_be_raised(layers: tuple[Layer, ...]) -> None:
    raising = "import resource; resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)"
    assert tried(layers, raising)[0] in ("ValueError", "PermissionError")
    if "namespaces" in layers:
        assert attack(layers, "import os; print(os.getuid(), os.getpid())").stdout.split() != ["0", str(os.getpid())]


@filtered_way
def test_no_namespace_of_its_own(layers: tuple[Layer, ...]) -> None:
    code = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))"
    assert attack(layers, code).stdout == "-1\n"


@every_way
def test_several_at_once(layers: tuple[Layer, ...]) -> None:
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda n=n: outcomes.append(attack(layers, f"print({n})", timeout_s=20.0))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.stdout for outcome in outcomes) == ["0\n", "1\n", "2\n", "3\n"]


def test_the_program_dies_with_the_platform(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    caller = (
        "import sys, threading, pathlib\nfrom modelworks.capabilities.text.sandbox import run_python\n"
        "threading.Timer(1.5, lambda: pathlib.Path(sys.argv[1]).touch()).start()\n"
        "run_python('import time; time.sleep(300)', timeout_s=300)"
    )
    process = subprocess.Popen([sys.executable, "-c", caller, str(mark)])
    try:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.05)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert children
        family = set(children)
        for _ in range(4):
            for pid in list(family):
                family |= {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    finally:
        process.kill()
        process.wait()
    for _ in range(100):
        alive = [pid for pid in family if Path(f"/proc/{pid}").exists() and "Z" not in state_of(pid)]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_an_older_kernel_is_no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert landlock_abi() >= 0
    monkeypatch.setattr("modelworks.isolation.landlock_abi", lambda: LANDLOCK_ABI - 1)
    with pytest.raises(OSError, match="landlock: the kernel has version"):
        restrict_files([], "/")


def test_the_filter_knows_no_number_twice() -> None:
    from modelworks.isolation import _FORBIDDEN

    for column in (0, 1):
        numbers = [numbers[column] for numbers in _FORBIDDEN.values() if numbers[column] >= 0]
        assert len(numbers) == len(set(numbers))
