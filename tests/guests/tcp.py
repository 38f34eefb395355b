# TCP connections with both ends in the tree: data on its way in both directions, half closed
# and ended ones, options; says "ready", and checks itself when a file "go" appears.
import os, socket, struct, sys, time

REUSE = (socket.SOL_SOCKET, socket.SO_REUSEADDR)


def check(what, found, expected):
    print("ok" if found == expected else "BAD", what, found, expected, flush=True)


def state(one):
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]


def listener(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family)
    # Or what is left of a connection after its end keeps the port for a while.
    one.setsockopt(*REUSE, 1)
    one.bind((address, 0))
    one.listen(9)
    return one


def pair(to, address=None):
    client = socket.create_connection((address or to.getsockname()[0], to.getsockname()[1]))
    server, _ = to.accept()
    return client, server


def everything(one):
    data = b""
    while True:
        more = one.recv(1 << 20)
        if not more:
            return data
        data += more


v4, v6, both = listener("127.0.0.1"), listener("::1"), listener("::")
pairs = [pair(v4), pair(v6), pair(both, "127.0.0.1"), pair(both, "::1")]
for number, (client, server) in enumerate(pairs):
    client.send(b"to the server %d" % number)
    server.send(b"to the client %d" % number)

# More than both queues hold.
pattern = bytes(range(251)) * 100
full, reader = pair(v4)
full.setblocking(False)
written = 0
try:
    while True:
        written += full.send(pattern[written % 251:])
except BlockingIOError:
    pass
full.setblocking(True)

# Half closed, from either side, with and without data; closed by both.
gone, stays = pair(v4)
gone.send(b"last words")
gone.shutdown(socket.SHUT_WR)
silent, other = pair(v6)
silent.shutdown(socket.SHUT_WR)
first, second = pair(v4)
first.send(b"first")
first.shutdown(socket.SHUT_WR)
second.send(b"second")
second.shutdown(socket.SHUT_WR)
reset, resetter = pair(v4)
resetter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
resetter.close()
only_end, closed_end = pair(v4)
closed_end.close()
time.sleep(0.1)
states = [state(one) for one in (gone, stays, silent, other, first, second, reset, only_end)]

options, optioned = pair(v4)
options.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
options.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
options.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
options.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 33)
options.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)
options.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
options.setsockopt(*REUSE, 1)
optioned.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 9))
corked, uncorked = pair(v4)
corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
corked.send(b"held back")

# The other end in a child.
mine, its = pair(v4)
child = os.fork()
if child == 0:
    mine.close()
    its.send(b"early")
    check("in the child", its.recv(99), b"late")
    its.send(b"answer")
    check("end in the child", its.recv(99), b"")
    os._exit(0)
its.close()
time.sleep(0.1)

print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)

found = [state(one) for one in (gone, stays, silent, other, first, second, reset, only_end)]
check("states", found, states)
for number, (client, server) in enumerate(pairs):
    check("at the server", server.recv(99), b"to the server %d" % number)
    check("at the client", client.recv(99), b"to the client %d" % number)
    client.send(b"again")
    check("again", server.recv(99), b"again")
    check("names", (client.getsockname()[1], client.getpeername()[1]),
          (server.getpeername()[1], server.getsockname()[1]))
    client.shutdown(socket.SHUT_WR)
    check("end", server.recv(9), b"")
full.shutdown(socket.SHUT_WR)
data = everything(reader)
check("length of a full queue", len(data), written)
check("content of a full queue", data == (pattern * (written // 25100 + 1))[:written], True)
check("last words", everything(stays), b"last words")
stays.send(b"reply to last words")
stays.shutdown(socket.SHUT_WR)
check("reply", everything(gone), b"reply to last words")
check("silent end", other.recv(9), b"")
other.send(b"still")
check("still", silent.recv(9), b"still")
check("second", everything(first), b"second")
check("first", everything(second), b"first")
check("end of a closed one", only_end.recv(9), b"")
tcp = lambda name: options.getsockopt(socket.IPPROTO_TCP, name)
check("tcp options", [tcp(socket.TCP_NODELAY), tcp(socket.TCP_KEEPIDLE), tcp(socket.TCP_KEEPINTVL),
                      tcp(socket.TCP_KEEPCNT)], [1, 77, 33, 5])
check("keepalive", options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)
check("tos", options.getsockopt(socket.IPPROTO_IP, socket.IP_TOS), 0x10)
check("reuse", [one.getsockopt(*REUSE) for one in (options, optioned, corked, v4)], [1, 1, 0, 1])
linger = optioned.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
check("linger", struct.unpack("ii", linger), (1, 9))
check("cork", corked.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK), 1)
corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
check("held back", uncorked.recv(99), b"held back")
check("from the child", mine.recv(99), b"early")
mine.send(b"late")
check("answer", mine.recv(99), b"answer")
mine.close()
check("child", os.waitpid(child, 0)[1], 0)
client, server = pair(v4)
client.send(b"new")
check("new connection", server.recv(9), b"new")
print("done", flush=True)
time.sleep(1000)
