# A small family with every attribute that a task can have; says "ready", and checks itself
# when a file "go" appears.
import ctypes, os, resource, signal, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 2, 15, 36


def check(what, found, expected):
    print("ok" if found == expected else "BAD", what, found, expected, flush=True)


def wait_for_go():
    while not os.path.exists("go"):
        time.sleep(0.02)


def status(pid, field):
    for line in open("/proc/%s/status" % pid):
        if line.startswith(field + ":"):
            return line.split(":", 1)[1].split()


def stat(pid):
    return open("/proc/%s/stat" % pid).read().rsplit(") ", 1)[1].split()


def child(life):
    pid = os.fork()
    if pid == 0:
        try:
            life()
        except BaseException as error:
            print("BAD", life.__name__, error, flush=True)
        os._exit(0)
    return pid


def as_nobody():
    os.setgroups([1234, 65534])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
    before = [status("self", field) for field in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd")]
    wait_for_go()
    after = [status("self", field) for field in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd")]
    check("credentials", after, before)
    death = ctypes.c_int()
    libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(death))
    check("signal at the parent's death", death.value, signal.SIGUSR1)


def in_session_of_its_own():
    os.setsid()
    wait_for_go()
    check("session", os.getsid(0), os.getpid())


def in_group_of_its_own():
    os.setpgid(0, 0)
    wait_for_go()
    check("group", os.getpgid(0), os.getpid())


def named():
    libc.prctl(PR_SET_NAME, b"a) (b\xff\n")
    wait_for_go()
    check("name", open("/proc/self/comm", "rb").read(), b"a) (b\xff\n\n")


def limited():
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 8192))
    os.nice(7)
    open("/proc/self/oom_score_adj", "w").write("321")
    wait_for_go()
    check("limit", resource.getrlimit(resource.RLIMIT_CORE), (4096, 8192))
    check("nice", os.nice(0), 7)
    check("oom_score_adj", open("/proc/self/oom_score_adj").read().strip(), "321")


def with_signals():
    received = []
    signal.signal(signal.SIGRTMIN + 3, lambda *_: received.append("queued"))
    signal.signal(signal.SIGUSR1, lambda *_: received.append("usr1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    blocked = [signal.SIGRTMIN + 3, signal.SIGUSR1, signal.SIGTERM]
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    for value in (11, 22, 33):
        libc.sigqueue(os.getpid(), signal.SIGRTMIN + 3, ctypes.c_void_p(value))
    os.kill(os.getpid(), signal.SIGUSR1)
    before = [status("self", field) for field in ("SigBlk", "SigIgn", "SigCgt")]
    wait_for_go()
    check("masks", [status("self", field) for field in ("SigBlk", "SigIgn", "SigCgt")], before)
    values = [signal.sigwaitinfo([signal.SIGRTMIN + 3]) for _ in range(3)]
    check("queued signals", [info.si_code for info in values], [-1, -1, -1])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    check("pending signal", received, ["usr1"])


def with_timers():
    timer = ctypes.c_void_p()
    libc.timer_create(time.CLOCK_MONOTONIC, None, ctypes.byref(timer))
    libc.timer_settime(timer, 0, struct.pack("llll", 5, 0, 4000, 0), None)
    signal.setitimer(signal.ITIMER_VIRTUAL, 500, 3)
    stack = ctypes.create_string_buffer(65536)
    libc.sigaltstack(struct.pack("QiiQ", ctypes.addressof(stack), 0, 0, 65536), None)
    wait_for_go()
    left = bytearray(32)
    libc.timer_gettime(timer, (ctypes.c_char * 32).from_buffer(left))
    interval, _, value, _ = struct.unpack("llll", left)
    check("posix timer", (interval, 3000 < value <= 4000), (5, True))
    check("virtual timer", signal.getitimer(signal.ITIMER_VIRTUAL)[1], 3)
    old = bytearray(24)
    libc.sigaltstack(None, (ctypes.c_char * 24).from_buffer(old))
    check("alternate stack", struct.unpack("QiiQ", old)[0], ctypes.addressof(stack))


def parent_of_an_orphan():
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def grandchild():
        child(wait_for_go)

    os.waitpid(child(grandchild), 0)
    wait_for_go()
    check("orphan", os.waitpid(-1, 0)[1], 0)


def stopped():
    wait_for_go()


lives = [as_nobody, in_session_of_its_own, in_group_of_its_own, named, limited, with_signals,
         with_timers, parent_of_an_orphan]
children = [child(life) for life in lives]
halted = child(stopped)
time.sleep(0.3)
os.kill(halted, signal.SIGSTOP)
time.sleep(0.1)
print("ready", flush=True)
wait_for_go()
for pid in children:
    check("end of %d" % pid, os.waitpid(pid, 0)[1], 0)
check("still stopped", stat(halted)[0], "T")
os.kill(halted, signal.SIGCONT)
check("end of the stopped one", os.waitpid(halted, 0)[1], 0)
print("done", flush=True)
time.sleep(1000)
