#!/usr/bin/env python3
"""Makes the folders in damaged/ out of sound ones: each has one defect, and a file `verdict`
that says what has to be found: lines of a file name, a tab, and what is wrong with it."""

import os
import shutil
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "damaged")
PID = 11927


class Image:
    """An image: its magics and its entries, without payloads."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            data = file.read()
        at = 4 if os.path.basename(path) == "inventory.img" else 8
        self.magics, self.entries = data[:at], []
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            self.entries.append(data[at + 4 : at + 4 + length])
            at += 4 + length

    def write(self):
        with open(self.path, "wb") as file:
            file.write(self.magics)
            for entry in self.entries:
                file.write(struct.pack("<I", len(entry)) + entry)


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def case(name, verdict, base="one-task", manifest=False):
    """Copies a sound folder; returns a function that gives paths in the copy."""
    folder = os.path.join(OUT, name)
    shutil.copytree(os.path.join(HERE, base), folder, symlinks=True)
    for path in ["README.md"] + ([] if manifest else ["dedump-manifest.img"]):
        os.remove(os.path.join(folder, path))
    with open(os.path.join(folder, "verdict"), "w") as file:
        for image, what in verdict:
            file.write(f"{image}\t{what}\n")
    return lambda image: os.path.join(folder, image)


def change(path, edit):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data = edit(data)
    with open(path, "wb") as file:
        file.write(data)


def edit_entries(path, edit):
    image = Image(path)
    image.entries = edit(image.entries)
    image.write()


def flip(data):
    data[-1] ^= 1
    return data


def wrong_magic(data):
    data[4] ^= 0xFF
    return data


def main():
    for old in os.listdir(OUT):
        if old != "README.md":
            shutil.rmtree(os.path.join(OUT, old))
    core, fs, mm = f"core-{PID}.img", f"fs-{PID}.img", f"mm-{PID}.img"
    pagemap = f"pagemap-{PID}.img"

    at = case("magic", [(core, "magic")])
    change(at(core), wrong_magic)

    at = case("cut-entry", [("files.img", "framing")])
    change(at("files.img"), lambda data: data[:-5])

    at = case("bytes-behind", [("pstree.img", "framing")])
    change(at("pstree.img"), lambda data: data + b"\1\2\3")

    at = case("huge-entry", [(mm, "framing")])
    change(at(mm), lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:])

    # What a full disk leaves.
    at = case("full-disk", [(mm, "framing"), ("pages-1.img", "pages")])
    change(at(mm), lambda data: b"")
    change(at("pages-1.img"), lambda data: b"")

    at = case("field-missing", [(fs, "required")])
    edit_entries(at(fs), lambda entries: [entries[0][:2]])

    at = case("no-protobuf", [("pstree.img", "protobuf")])
    edit_entries(at("pstree.img"), lambda entries: [b"\xff" * len(entries[0])])

    at = case("short-pages", [("pages-1.img", "pages")])
    change(at("pages-1.img"), lambda data: data[:-4096])

    at = case("long-pages", [("pages-1.img", "pages")])
    change(at("pages-1.img"), lambda data: data + bytes(4096))

    at = case("no-pages", [("pages-1.img", "missing")])
    os.remove(at("pages-1.img"))

    at = case("no-core", [(core, "missing")])
    os.remove(at(core))

    at = case("no-inventory", [("inventory.img", "missing")])
    os.remove(at("inventory.img"))

    at = case("two-inventories", [("inventory.img", "single")])
    edit_entries(at("inventory.img"), lambda entries: entries * 2)

    # The first file is the program.
    at = case("file-gone", [(mm, "reference")])
    edit_entries(at("files.img"), lambda entries: entries[1:])

    at = case("file-twice", [("files.img", "twice")])
    edit_entries(at("files.img"), lambda entries: entries + entries[-1:])

    # An eventfd that no descriptor leads to.
    owner = b"".join(number(field, 0) for field in range(1, 6))
    body = number(1, 4242) + number(2, 2) + b"\x1a" + varint(len(owner)) + owner + number(4, 0)
    lonely = number(1, 6) + number(2, 4242) + b"\x42" + varint(len(body)) + body
    at = case("file-unreferenced", [("files.img", "unreferenced")])
    edit_entries(at("files.img"), lambda entries: entries + [lonely])

    at = case("descriptor-twice", [("fdinfo-2.img", "twice")])
    edit_entries(at("fdinfo-2.img"), lambda entries: entries + entries[-1:])

    at = case("pages-unsorted", [(pagemap, "sorted")])
    edit_entries(at(pagemap), lambda entries: entries[:1] + entries[:0:-1])

    outside = number(1, 0x10000) + number(2, 1) + number(4, 4) + number(5, 1)
    at = case("pages-outside", [(pagemap, "outside")])
    edit_entries(at(pagemap), lambda entries: entries[:1] + [outside] + entries[1:])
    change(at("pages-1.img"), lambda data: bytes(4096) + data)

    # The first two pages are said to be in an earlier dump.
    at = case("no-parent", [(pagemap, "parent")])
    below = lambda entry: entry.replace(number(4, 4), number(4, 1))
    edit_entries(at(pagemap), lambda entries: entries[:1] + [below(entries[1])] + entries[2:])
    change(at("pages-1.img"), lambda data: data[8192:])

    at = case("crc", [("pages-1.img", "crc")], manifest=True)
    change(at("pages-1.img"), flip)

    at = case("size", [("files.img", "size")], manifest=True)
    edit_entries(at("files.img"), lambda entries: entries + [lonely])

    at = case("not-in-the-manifest", [("fs-1.img", "manifest")], manifest=True)
    shutil.copy(at(fs), at("fs-1.img"))


if __name__ == "__main__":
    main()
