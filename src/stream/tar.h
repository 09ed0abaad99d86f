/*
 * One tar header, pure: the ustar dialect of PostgreSQL's server (src/port/tar.c), which is what we
 * write, and what reads like it. Numbers are octal digits up to the first other character, or
 * base-256; the checksum is the unsigned sum of the bytes. Members that carry names or data in
 * other ways (pax, GNU long names, sparse files, hard links) are refused by name, ERR_UNSUPPORTED.
 */
#ifndef PGSTOW_TAR_H
#define PGSTOW_TAR_H

#include <sys/types.h>

#include "stream/stream.h"

#define TAR_BLOCK      512
#define TAR_END_BLOCKS 2

#define TAR_NAME_MAX (155 + 1 + 100) /* prefix, slash, name */
#define TAR_LINK_MAX 100

typedef struct TarHeader {
    EntryKind kind;
    char name[TAR_NAME_MAX + 1]; /* as it stands there, a prefix in front */
    char link[TAR_LINK_MAX + 1]; /* ENTRY_SYMLINK, else "" */
    uint64_t size;               /* of the content, at most TAR_SIZE_MAX; 0 unless ENTRY_FILE */
    mode_t mode;                 /* & 07777 */
    int64_t mtime;
} TarHeader;

/* So that the content with its padding has an offset in a file. */
#define TAR_SIZE_MAX ((uint64_t)INT64_MAX - TAR_BLOCK)

bool tar_parse(const uint8_t block[TAR_BLOCK], TarHeader *ret_header, Error *err) MUST_USE;

/*
 * The other way round: the block that the server would send for this entry, byte by byte.
 * ERR_UNSUPPORTED for a path or link target of more than 99 bytes, which it would refuse.
 */
bool tar_format(const Entry *entry, const TarOwner *owner, uint8_t ret_block[TAR_BLOCK],
                Error *err) MUST_USE;

/* Where the entry has another size, mode or time than its header says, these and the checksum are
 * written anew; every other byte stays. ERR_BUG for a header of another kind of entry. */
bool tar_patch(uint8_t block[TAR_BLOCK], const Entry *entry, Error *err) MUST_USE;

/* The sum of a header's bytes, its checksum field taken as blanks. */
uint32_t tar_checksum(const uint8_t block[TAR_BLOCK]);
bool tar_is_zero(const uint8_t block[TAR_BLOCK]);

/* How many bytes follow content of this size up to the next block. */
size_t tar_padding(uint64_t size);

#endif
