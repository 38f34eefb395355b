"""What CRIU's own tool makes of images, for tests: run with PYTHONPATH at its library.

  crit.py schema           all fields of all messages, one a line
  crit.py make FOLDER      images of every kind that crit knows, with every field there is, as 0, 1, ...
                           in FOLDER
  crit.py compare FOLDER   for each line of FOLDER/list, an image and a number N: whether N.json and
                           N.pretty in FOLDER are what crit writes, and lead back to the image
"""

import io
import json
import os
import random
import struct
import sys

from pycriu import images
from pycriu.images import magic, pb2dict

sys.path.insert(0, os.path.dirname(images.__file__))
import opts_pb2

KINDS = {v: k[5:].lower() for k, v in vars(pb2dict.FD).items() if k.startswith("TYPE_")}
FLAGS = {
    "mmap.prot": "Prot",
    "mmap.flags": "MapFlags",
    "mmap.status": "VmaStatus",
    "rfile.flags": "OpenFlags",
    "pmap.flags": "PageFlags",
    "seals.flags": "Seals",
}
WORDS = {
    "task_state": "TaskState",
    "family": "Family",
    "type": "SocketType",
    "state": "SocketState",
    "proto": "Protocol",
}


def form(field):
    marks = field.GetOptions().Extensions[opts_pb2.criu]
    if marks.hex:
        return "Hex"
    if marks.odev:
        return "OldDevice"
    if marks.dev:
        return "Device"
    if marks.ipadd:
        return "Ip"
    if marks.flags:
        return FLAGS[marks.flags]
    if marks.dict:
        return WORDS[field.name]
    if marks.conv:
        return "Quoted"
    return "Plain"


def schema():
    seen = set()

    def walk(message):
        if message.full_name in seen:
            return
        seen.add(message.full_name)
        for field in message.fields:
            kind = KINDS[field.type]
            if kind == "enum":
                kind = "enum " + ",".join(f"{v.name}={v.number}" for v in field.enum_type.values)
            elif kind == "message":
                kind = "message " + field.message_type.name
                walk(field.message_type)
            label = {1: "Optional", 2: "Required", 3: "Repeated"}[field.label]
            print(message.name, field.number, field.name, label, kind, form(field), sep="\t")

    for name, handler in sorted(images.images.handlers.items()):
        if hasattr(handler, "payload"):
            walk(handler.payload.DESCRIPTOR)
    pb = images.images.pb
    others = ["pagemap_head", "pagemap_entry", "ghost_file_entry", "ghost_chunk_entry", "ipc_msg"]
    others += ["siginfo_entry", "binfmt_misc_entry", "pidfd_entry"]
    for name in others:
        walk(getattr(pb, name).DESCRIPTOR)
    print("magics", *(f"{name}={value}" for name, value in magic.by_name.items()), sep="\t")


NUMBERS = {"int32": (-(2**31), 2**31), "sint32": (-(2**31), 2**31), "uint32": (0, 2**32)}
NUMBERS |= {"int64": (-(2**63), 2**63), "sint64": (-(2**63), 2**63), "uint64": (0, 2**64)}
NUMBERS |= {"fixed64": (0, 2**64)}
TEXTS = ["", "plain", "quo\"te \\ back", "na\xefve \u20ac \U0001f600", "tab\tnew\nline\x7f", "/a/path (deleted)"]


def value(dice, field):
    kind = KINDS[field.type]
    if kind == "bool":
        return dice.random() < 0.5
    if kind == "string":
        return dice.choice(TEXTS)
    if kind == "bytes":
        return dice.choice([dice.randbytes(dice.randrange(100)), b"name = \x00.", b".", b"a " * 60])
    if kind == "enum":
        return dice.choice(field.enum_type.values).number
    low, high = NUMBERS[kind]
    return dice.choice([0, 1, low, high - 1, dice.randrange(20), dice.randrange(low, high)])


def fill(dice, message, level=0):
    """Sets every field of a message, deep ones now and then."""
    for field in message.DESCRIPTOR.fields:
        repeated = field.label == field.LABEL_REPEATED
        is_message = KINDS[field.type] == "message"
        if field.label != field.LABEL_REQUIRED and (dice.random() < 0.2 or level > 3 and is_message):
            continue
        if not repeated and is_message:
            inner = getattr(message, field.name)
            inner.SetInParent()
            fill(dice, inner, level + 1)
        elif is_message:
            for _ in range(dice.randrange(3)):
                fill(dice, getattr(message, field.name).add(), level + 1)
        elif repeated:
            # Addresses have one word or four.
            count = dice.choice([1, 4]) if form(field) == "Ip" else dice.randrange(5)
            getattr(message, field.name).extend(value(dice, field) for _ in range(count))
        else:
            setattr(message, field.name, value(dice, field))
    return message


def entry(message):
    data = message.SerializeToString()
    return struct.pack("<I", len(data)) + data


def body(dice, name, handler):
    """The entries of an image, with what follows each."""
    pb = images.images.pb
    if name == "PAGEMAP":
        entries = [fill(dice, pb.pagemap_entry()) for _ in range(3)]
        return b"".join(map(entry, [fill(dice, pb.pagemap_head()), *entries]))
    out = b""
    if name == "GHOST_FILE":
        ghost = fill(dice, pb.ghost_file_entry())
        out = entry(ghost)
        if not ghost.chunks:
            return out + dice.randbytes(150)
        for length in (0, 57, 58):
            chunk = fill(dice, pb.ghost_chunk_entry())
            chunk.len = length
            out += entry(chunk) + dice.randbytes(length)
        return out
    # In front of other entries crit takes them for the bytes of a segment in a pagemap.
    for _ in range(1 if name == "IPCNS_SHM" else 3):
        message = fill(dice, handler.payload())
        lengths, behind = {}, None
        if name in ("PIPES_DATA", "FIFO_DATA"):
            lengths = {"bytes": dice.randrange(200)}
        elif name == "SK_QUEUES":
            lengths = {"length": dice.randrange(200)}
        elif name == "TCP_STREAM":
            lengths = {"inq_len": dice.randrange(200), "outq_len": dice.randrange(200)}
        elif name == "BPFMAP_DATA":
            lengths = {"keys_bytes": dice.randrange(200), "values_bytes": dice.randrange(200)}
        elif name == "IPCNS_SHM":
            message.in_pagemaps = False
            message.size = dice.randrange(200)
            behind = dice.randbytes(message.size) + bytes(-message.size % 4)
        elif name == "IPCNS_SEM":
            message.nsems = dice.randrange(20)
            behind = dice.randbytes(2 * message.nsems) + bytes(-2 * message.nsems % 8)
        elif name == "IPCNS_MSG":
            message.qnum = dice.randrange(4)
            behind = b""
            for _ in range(message.qnum):
                inner = fill(dice, pb.ipc_msg())
                inner.msize = dice.randrange(100)
                behind += entry(inner) + dice.randbytes(inner.msize) + bytes(-inner.msize % 8)
        for field, length in lengths.items():
            setattr(message, field, length)
        if behind is None:
            behind = dice.randbytes(sum(lengths.values()))
        out += entry(message) + behind
    return out


def make(folder):
    number = 0
    for seed in range(8):
        for name, handler in sorted(images.images.handlers.items()):
            if name not in magic.by_name:
                continue
            dice = random.Random(f"{seed} {name}")
            head = [magic.by_name[name]]
            if name in ("STATS", "IRMAP_CACHE"):
                head.insert(0, magic.by_name["IMG_SERVICE"])
            elif name != "INVENTORY":
                head.insert(0, magic.by_name["IMG_COMMON"])
            with open(os.path.join(folder, str(number)), "wb") as file:
                file.write(struct.pack(f"<{len(head)}I", *head) + body(dice, name, handler))
            number += 1


# crit decodes these and cannot encode them: a text is taken for bytes.
NOT_ENCODED = ("BPFMAP_DATA", "IPCNS_SHM")


def compare(folder):
    wrong = 0

    def complain(image, what):
        nonlocal wrong
        wrong += 1
        print(f"{image}: {what}")

    compared = 0
    for line in open(os.path.join(folder, "list")):
        number, image = line.rstrip("\n").split(" ", 1)
        with open(image, "rb") as file:
            source = file.read()
        for suffix, pretty in (("json", False), ("pretty", True)):
            expected = json.dumps(images.loads_with(source, pretty), indent=4 if pretty else None)
            with open(os.path.join(folder, f"{number}.{suffix}")) as file:
                ours = file.read()
            if ours != expected + "\n":
                at = next((i for i, (a, b) in enumerate(zip(ours, expected)) if a != b), None)
                where = slice(max(0, (at or 0) - 40), (at or 0) + 40)
                complain(image, f"{suffix}: {ours[where]!r} where crit has {expected[where]!r}")
            back = json.loads(ours)
            if back["magic"] not in NOT_ENCODED and images.dumps(back) != source:
                complain(image, f"{suffix}: encoded it is another file")
        compared += 1
    print(f"compared {compared}")
    return wrong


images.loads_with = lambda data, pretty: images.load(io.BytesIO(data), pretty)

if sys.argv[1] == "schema":
    schema()
elif sys.argv[1] == "make":
    make(sys.argv[2])
else:
    sys.exit(1 if compare(sys.argv[2]) else 0)
