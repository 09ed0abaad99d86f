"""What can go wrong with a backup: verbs for tables of faults.

    Fault("table", "first byte flipped", edit(flip(0)), "checksum mismatch")

A fault is a change at a place. The places are known to whoever has the backup: the same fault is
tried on many of them. What a change does comes from the verbs below, each of which makes one; an
edit makes new bytes of the old ones.
"""

import json
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from .damage import crc32c, manifest_text
from .run import CommandFailed
from .specimen import Specimen
from .tarfiles import BLOCK, FIELDS, read_archive, uncompressed

MANIFEST = "backup_manifest"
END_OF_ARCHIVE = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Place:
    """A file, or a part of it: from `offset` up to `end`."""

    path: str
    offset: int = 0
    end: int | None = None
    member: str = ""  # of the archive `path`
    listed: str = ""  # what the manifest calls it


@dataclass(frozen=True)
class Fault:
    where: str  # the name of a place
    how: str
    change: Callable  # of a Case
    says: str  # a pattern of the line that must be there; PATH and MEMBER are the place's
    stricter: str = ""  # why the stock tool is content with it

    def __str__(self):
        return f"{self.where}: {self.how}"


@dataclass(frozen=True)
class Case:
    """A fault that is about to happen."""

    specimen: Specimen
    place: Place
    places: dict  # all of them, by name
    random: random.Random

    def read(self):
        return self.specimen.read(self.place.path)

    def write(self, data):
        self.specimen.write(self.place.path, data)


def faults(where, says, *rows):
    """The faults of one place, or of several, from rows of (how, change[, says[, stricter]])."""
    places = [where] if isinstance(where, str) else where
    return [Fault(place, how, change, *(more or [says]))
            for place in places for how, change, *more in rows]


# --- what is in a file ---


def edit(function):
    """The content becomes function(content, case)."""
    return lambda case: case.write(function(case.read(), case))


def _at(data, case, offset):
    """An offset from the beginning of the place, or from its end when it is negative."""
    end = len(data) if case.place.end is None else case.place.end
    return end + offset if offset < 0 else case.place.offset + offset


def flip(offset, mask=0x10):
    def flipped(data, case):
        at = _at(data, case, offset)
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1:]

    return flipped


def flip_anywhere(data, case):
    end = len(data) if case.place.end is None else case.place.end
    at = case.random.randrange(case.place.offset, end)
    return data[:at] + bytes([data[at] ^ 1 << case.random.randrange(8)]) + data[at + 1:]


def overwrite(offset, new):
    def overwritten(data, case):
        at = _at(data, case, offset)
        return data[:at] + new + data[at + len(new):]

    return overwritten


def cut(count):
    """Without its last bytes."""
    return lambda data, case: data[:-count]


def cut_at_place(data, case):
    return data[:case.place.offset]


def halved(data, case):
    return data[:len(data) // 2]


def emptied(data, case):
    return b""


def zeroed(data, case):
    return bytes(len(data))


def followed_by(more):
    return lambda data, case: data + more


def doubled(data, case):
    return data + data


# --- what a file is ---


def remove(case):
    case.specimen.remove(case.place.path)


def rename(suffix):
    return lambda case: case.specimen.rename(case.place.path, case.place.path + suffix)


def directory_instead(case):
    case.specimen.replace_by_directory(case.place.path)


def link_to_itself_instead(case):
    case.specimen.replace_by_link_to_itself(case.place.path)


def dangling_link_instead(case):
    case.specimen.replace_by_link(case.place.path, "nowhere")


def link_to(target):
    return lambda case: case.specimen.replace_by_link(case.place.path, target)


def fifo_instead(case):
    case.specimen.replace_by_fifo(case.place.path)


def file_instead(case):
    case.specimen.write(case.place.path, b"")


def unreadable(case):
    case.specimen.chmod(case.place.path, 0)


def added(data=b""):
    """Something that is not there before."""
    return lambda case: case.specimen.write(case.place.path, data)


# --- archives ---


def members(function):
    """The archive gets the members function(members, index of the one at the place)."""
    def changed(data, case):
        archive = read_archive(data)
        index = archive.names.index(case.place.member)
        return archive_of(function(archive.members, index))

    return edit(changed)


def without_end(data, case):
    """An archive down to its last member."""
    return data[:len(data) - len(read_archive(data).tail)]


def archive_of(all_members):
    padded = (member.header + member.content + bytes(-len(member.content) % BLOCK)
              for member in all_members)
    return b"".join(padded) + END_OF_ARCHIVE


def removed(all_members, index):
    return [*all_members[:index], *all_members[index + 1:]]


def again(content):
    """It comes a second time, at the end, with content(content)."""
    return lambda all_members, index: [
        *all_members, replace(all_members[index], content=content(all_members[index].content))]


def with_field(name, value):
    """Another value in a field of its header, whose checksum is right."""
    def changed(all_members, index):
        member = all_members[index]
        return [*all_members[:index], replace(member, header=_header_with(member, name, value)),
                *all_members[index + 1:]]

    return changed


def with_content(content):
    """Another content, and the size that it has."""
    def changed(all_members, index):
        member = all_members[index]
        member = replace(member, content=content(member.content))
        header = _header_with(member, "size", b"%011o " % len(member.content))
        return [*all_members[:index], replace(member, header=header), *all_members[index + 1:]]

    return changed


def joined_by(name):
    """There is one more member, before this one."""
    def changed(all_members, index):
        model = all_members[index]
        return [*all_members[:index], replace(model, header=_header_with(model, "name", name)),
                *all_members[index:]]

    return changed


def _header_with(member, name, value):
    header = bytearray(member.header)
    _set_field(header, name, value.ljust(FIELDS[name][1], b"\0"))
    _set_field(header, "checksum", b" " * FIELDS["checksum"][1])
    _set_field(header, "checksum", b"%06o\0 " % sum(header))
    return bytes(header)


def _set_field(header, name, value):
    start, length = FIELDS[name]
    header[start:start + length] = value


# --- compressed streams ---


def flip_with_effect(on):
    """A bit at random, but one that matters: that changes what on(members) is, or the archive
    cannot be read. In a run of zeros, a byte that is copied from 17 bytes before is as good as one
    from the byte before, and nobody reads what is between two members.
    """
    def flipped(case):
        data, original = case.read(), _effect(case, on)
        while True:
            case.write(flip_anywhere(data, case))
            if _effect(case, on) != original:
                return

    return flipped


def _effect(case, on):
    try:
        archive = read_archive(uncompressed(case.specimen.path(case.place.path)))
    except (CommandFailed, ValueError):
        return None
    return on(archive.members), len(archive.tail) >= len(END_OF_ARCHIVE)


# --- the manifest ---


def substitute(pattern, text):
    """Another text in the manifest, whose checksum is that of the old one."""
    def substituted(data, case):
        new, count = re.subn(pattern.encode(), text, data, count=1)
        if count != 1 or new == data:
            raise LookupError(f"{pattern} is not in the manifest")
        return new

    return edit(substituted)


def manifest(change):
    """change(manifest, entry of the place) and the checksum that is right for it."""
    def changed(case):
        content = json.loads(case.specimen.read(MANIFEST))
        entries = [entry for entry in content["Files"] if entry.get("Path") == case.place.path]
        change(content, *entries)
        case.specimen.write(MANIFEST, manifest_text(content).encode())

    return changed


def entry(**values):
    """Other values in the entry of the place; None: not any more. Of a function: what it makes of
    the old one."""
    def changed(_manifest, found):
        for key, value in values.items():
            key = key.replace("_", "-")
            found[key] = value(found.get(key)) if callable(value) else value
            if found[key] is None:
                del found[key]

    return manifest(changed)


def wal_range(**values):
    def changed(content, *_entry):
        [needed] = content["WAL-Ranges"]
        for key, value in values.items():
            key = key.replace("_", "-")
            needed[key] = value(needed[key]) if callable(value) else value
            if needed[key] is None:
                del needed[key]

    return manifest(changed)


def member_of_manifest(key, value):
    """At the top."""
    def changed(content, *_entry):
        content[key] = value(content.get(key)) if callable(value) else value
        if content[key] is None:
            del content[key]

    return manifest(changed)


def agreed(change):
    """The change, of which the manifest knows: as if it had been so when the backup was taken."""
    def changed(case):
        change(case)
        data = case.read()
        entry(Size=len(data), Checksum_Algorithm="CRC32C",
              Checksum=struct.pack("<I", crc32c(data)).hex())(case)

    return changed
