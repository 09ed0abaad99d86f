/*
 * Makes tar archives in the server's dialect (documentation of the format: POSIX ustar), and such
 * as only a hostile peer would send: every header field can be set, and the block can be damaged.
 *
 *     Buf tar = BUF_INIT;
 *     tar_add(&tar, &(TarMember){TAR_FILE("PG_VERSION", "18\n")});
 *     tar_add(&tar, &(TarMember){TAR_DIRECTORY("base"), .mode = 0750});
 *     tar_end(&tar);
 *
 * Made for tests: out of memory ends the process.
 */
#ifndef PGSTOW_TESTS_TAR_BUILDER_H
#define PGSTOW_TESTS_TAR_BUILDER_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/bytes.h"

#define TAR_BUILDER_BLOCK 512

typedef enum TarMagic {
    TAR_MAGIC_POSIX, /* "ustar", NUL, "00": the server's */
    TAR_MAGIC_GNU,   /* "ustar  ", NUL */
    TAR_MAGIC_LOOSE, /* "ustar00", NUL */
    TAR_MAGIC_NONE   /* zeros, as before ustar */
} TarMagic;

/* Zeros are the server's usual values. */
typedef struct TarMember {
    const char *name; /* as it stands in the header; the builder adds no slash */
    const char *prefix;
    const char *link;
    char type;        /* 0: '0'; TAR_TYPE_NUL: the old NUL */
    mode_t mode;      /* 0: 0600, 0700 for directories */
    int64_t mtime;    /* 0: 1700000000; negative as the server writes it */
    const void *data; /* content, padded to whole blocks */
    size_t size;      /* of the content */
    uint64_t claim;   /* the header's size when it is to lie; 0: the true one */
    bool base256;     /* numbers in base-256 even where octal digits would do */
    TarMagic magic;
} TarMember;

#define TAR_TYPE_NUL '\1'

#define TAR_FILE(NAME, TEXT)     .name = (NAME), .data = (TEXT), .size = sizeof(TEXT) - 1
#define TAR_DIRECTORY(NAME)      .name = (NAME), .type = '5'
#define TAR_SYMLINK(NAME, LINK_) .name = (NAME), .type = '2', .link = (LINK_)

/* Header, content, padding. */
void tar_add(Buf *tar, const TarMember *member);

/* The header block alone. */
void tar_build_header(uint8_t block[TAR_BUILDER_BLOCK], const TarMember *member);

/* Compute the checksum of a block anew, after a test has changed something in it. */
void tar_seal(uint8_t block[TAR_BUILDER_BLOCK]);

/* `count` blocks of zeros. */
void tar_zeros(Buf *tar, size_t count);

/* The end of an archive: two of them. */
void tar_end(Buf *tar);

Span tar_span(const Buf *tar);

#endif
