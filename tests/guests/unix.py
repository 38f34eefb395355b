# Unix sockets with open files on their way, with names that are gone, and with queues whose
# sender is gone; says "ready", and checks itself when a file "go" appears.
import array, os, socket, sys, time

STREAM, DATAGRAM, SEQUENCED = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def check(what, found, expected):
    print("ok" if found == expected else "BAD", what, found, expected, flush=True)


def here(name):
    return os.path.abspath(name)


def pair(kind):
    return socket.socketpair(socket.AF_UNIX, kind)


def send(sender, data, *fds):
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sender.sendmsg([data], [rights] if fds else [])


def receive(receiver):
    data, control, _, _ = receiver.recvmsg(100, 1000)
    fds = array.array("i")
    for _, kind, content in control:
        check("kind of control message", kind, socket.SCM_RIGHTS)
        fds.frombytes(content)
    return data, list(fds)


# Files that a task has open too, and files that only travel.
kept = open(here("kept"), "w+b", 0)
kept.write(b"0123456789")
kept.seek(3)
lost = os.open(here("lost"), os.O_RDWR | os.O_CREAT)
os.write(lost, b"lost")
gone = os.open(here("gone"), os.O_RDWR | os.O_CREAT)
os.write(gone, b"gone")
os.unlink("gone")
reader, writer = os.pipe()
os.write(writer, b"in the pipe")
stream = pair(STREAM)
send(stream[0], b"first", kept.fileno(), lost)
send(stream[0], b"plain")
send(stream[0], b"second", reader)
datagram = pair(DATAGRAM)
send(datagram[0], b"d1", gone)
send(datagram[0], b"d2")
send(datagram[0], b"d3", gone, lost)
sequenced = pair(SEQUENCED)
send(sequenced[0], b"s1")
send(sequenced[0], b"s2", writer, lost)
for fd in (lost, gone, reader):
    os.close(fd)

# A socket on its way through a socket, with something in its queue.
outer, inner = pair(STREAM), pair(STREAM)
inner[0].send(b"in the inner one")
send(outer[0], b"nested", inner[1].fileno())
inner[1].close()

# The sender of what waits is gone.
left = pair(STREAM)
left[0].send(b"left behind")
left[0].close()
left_sequenced = pair(SEQUENCED)
left_sequenced[0].send(b"q1")
left_sequenced[0].send(b"q22")
left_sequenced[0].close()
half = pair(STREAM)
half[0].send(b"half")
half[0].shutdown(socket.SHUT_WR)

# Names: deleted, deleted and taken again, relative and deleted, datagrams by name.
def listener(name):
    one = socket.socket(socket.AF_UNIX)
    one.bind(name)
    one.listen(3)
    return one


def client(name):
    one = socket.socket(socket.AF_UNIX)
    one.connect(name)
    return one


old = listener(here("taken"))
old_client = client(here("taken"))
old_server, _ = old.accept()
os.unlink("taken")
deleted = listener(here("deleted"))
os.chmod("deleted", 0o640)
waiting = [client(here("deleted")), client(here("deleted"))]
os.unlink("deleted")
os.mkdir("folder")
os.chdir("folder")
relative = listener("relative")
relative_gone = listener("gone")
os.unlink("gone")
os.chdir("..")
inbox = socket.socket(socket.AF_UNIX, DATAGRAM)
inbox.bind(here("inbox"))
os.chmod("inbox", 0o600)
senders = []
for number in range(3):
    one = socket.socket(socket.AF_UNIX, DATAGRAM)
    if number:
        one.bind(here("sender%d" % number))
    one.connect(here("inbox"))
    one.send(b"to the inbox %d" % number)
    senders.append(one)
early = socket.socket(socket.AF_UNIX, DATAGRAM)
late = socket.socket(socket.AF_UNIX, DATAGRAM)
late.bind(here("late"))
early.connect(here("late"))
abstract = socket.socket(socket.AF_UNIX, DATAGRAM)
abstract.bind("\0dedump\0unix%d" % os.getpid())
senders[0].sendto(b"to the abstract one", abstract.getsockname())
options = socket.socket(socket.AF_UNIX)
options.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
options.settimeout(7)

# A child that shares one end, and has the other end of a pair for itself.
between = pair(STREAM)
between[0].send(b"to the child")
child = os.fork()
if child == 0:
    between[0].close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    check("in the child", between[1].recv(100), b"to the child")
    between[1].send(b"to the parent")
    os._exit(0)
between[1].close()

print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)

data, fds = receive(stream[1])
check("stream with files", (data, len(fds)), (b"first", 2))
check("position is shared", os.lseek(fds[0], 2, os.SEEK_CUR), kept.tell())
check("file that only travelled", os.pread(fds[1], 9, 0), b"lost")
lost_inode = os.fstat(fds[1]).st_ino
data, fds = receive(stream[1])
if data == b"plain":
    data, fds = receive(stream[1])
    data = b"plain" + data
check("stream with a pipe", (data, len(fds)), (b"plainsecond", 1))
check("pipe that only travelled", os.read(fds[0], 99), b"in the pipe")
os.write(writer, b"again")
check("pipe is one", os.read(fds[0], 99), b"again")
data, fds = receive(datagram[1])
check("datagram with a deleted file", (data, os.pread(fds[0], 9, 0)), (b"d1", b"gone"))
first = fds[0]
check("datagram without", receive(datagram[1]), (b"d2", []))
data, fds = receive(datagram[1])
check("last datagram", (data, len(fds)), (b"d3", 2))
os.lseek(first, 2, os.SEEK_SET)
check("one open file in two messages", os.lseek(fds[0], 0, os.SEEK_CUR), 2)
check("one file in three", os.fstat(fds[1]).st_ino, lost_inode)
check("packet without", receive(sequenced[1]), (b"s1", []))
data, fds = receive(sequenced[1])
check("packet with files", (data, len(fds)), (b"s2", 2))
data, fds = receive(outer[1])
nested = socket.socket(fileno=fds[0])
check("socket through a socket", (data, nested.recv(99)), (b"nested", b"in the inner one"))
nested.send(b"back")
check("other end of it", inner[0].recv(99), b"back")

check("left behind", (left[1].recv(99), left[1].recv(99)), (b"left behind", b""))
check("left packets", [left_sequenced[1].recv(9) for _ in range(3)], [b"q1", b"q22", b""])
check("half closed", (half[1].recv(9), half[1].recv(9)), (b"half", b""))
half[1].send(b"other way")
check("other half", half[0].recv(99), b"other way")

old_client.send(b"x")
check("deleted listener's connection", old_server.recv(9), b"x")
check("deleted names stay deleted", os.path.exists("deleted") or os.path.exists("taken"), False)
for number, one in enumerate(waiting):
    server, _ = deleted.accept()
    one.send(b"w%d" % number)
    check("waiting at a deleted name", server.recv(9)[:1], b"w")
check("name of a deleted one", deleted.getsockname(), here("deleted"))
os.chdir("folder")
one = client("relative")
check("relative", relative.accept()[0].fileno() > 0, True)
check("relative name", (relative.getsockname(), os.path.exists("gone")), ("relative", False))
os.chdir("..")
check("inbox", sorted(inbox.recv(99) for _ in range(3)), [b"to the inbox %d" % n for n in range(3)])
check("mode of the inbox", os.stat("inbox").st_mode & 0o777, 0o600)
senders[1].send(b"more")
check("sender's name", inbox.recvfrom(9), (b"more", here("sender1")))
early.send(b"to a later one")
check("connected to a later one", late.recv(99), b"to a later one")
check("abstract", abstract.recv(99), b"to the abstract one")
check("options", options.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED), 1)
check("from the child", between[0].recv(99), b"to the parent")
check("end of the child", os.waitpid(child, 0)[1], 0)
print("done", flush=True)
time.sleep(1000)
