/*
 * What the files of this room share. Only they and their unit tests include it.
 */
#ifndef PGSTOW_VERIFY_INTERNAL_H
#define PGSTOW_VERIFY_INTERNAL_H

#include <sys/types.h>

#include "common/bytes.h"
#include "pgformat/walfile.h"
#include "verify/verify.h"

/* ---- problem.c: telling the caller ---- */

/* Formats and counts problems; `enough` once the sink wants no more. Borrows the sink. */
typedef struct Reporter {
    const ProblemSink *sink;
    uint64_t count;
    bool enough;
    Buf message;
} Reporter;

#define REPORTER_INIT(to) ((Reporter){.sink = (to), .message = BUF_INIT})

/* `problem` says all but the message. False only when there is no memory for that. */
bool report(Reporter *reporter, const Problem *problem, Error *err, const char *fmt, ...)
    PRINTF_LIKE(4, 5) MUST_USE;
void reporter_free(Reporter *reporter);

/* Room for errno_text. */
#define ERRNO_TEXT_SIZE 128
const char *errno_text(int errnum, char *room);

/* "checksum of length" and "checksum mismatch", as a PROBLEM_CHECKSUM; nothing when they agree. */
typedef enum DigestVerdict { DIGEST_AGREES, DIGEST_OTHER_LENGTH, DIGEST_DIFFERS } DigestVerdict;

DigestVerdict digest_check(const ManifestFile *file, const uint8_t *bytes, size_t len);
bool report_digest(Reporter *reporter, const ManifestFile *file, DigestVerdict verdict,
                   Error *err) MUST_USE;

/* ---- tree.c: what is in a directory ---- */

/* Relative paths, each standing for all below it. Add them all, sort, then ask. */
typedef struct PathSet {
    char **paths;
    size_t count;
    size_t capacity;
} PathSet;

#define PATH_SET_INIT ((PathSet){.paths = NULL})

bool path_set_add(PathSet *set, const char *path, Error *err) MUST_USE;
void path_set_sort(PathSet *set);

/* `path` or a directory above it is in the set. */
bool path_set_covers(const PathSet *set, const char *path);
void path_set_free(PathSet *set);

typedef enum TreeWhat {
    TREE_FILE,    /* a regular file */
    TREE_ODD,     /* neither a file nor a directory, or a link that is not followed */
    TREE_NO_STAT, /* nothing can be learnt about it */
    TREE_NO_OPEN, /* a directory that cannot be opened */
    TREE_NO_READ  /* a directory of which some entries could not be read */
} TreeWhat;

typedef struct TreeItem {
    TreeWhat what;
    const char *path; /* below the root; borrowed for the call */
    uint64_t size;    /* TREE_FILE */
    int errnum;       /* the TREE_NO_... */
} TreeItem;

typedef enum TreeNext { TREE_GO_ON, TREE_ENOUGH, TREE_FAILED } TreeNext;

typedef struct TreeWalk {
    const char *directory;
    const PathSet *ignore; /* sorted; neither looked at nor descended into */
    const Stop *stop;      /* may be NULL */
    TreeNext (*found)(void *ctx, const TreeItem *item, Error *err);
    void *ctx;
} TreeWalk;

/*
 * All files below the directory, depth first, names of one directory in byte order. Links are
 * followed only where PostgreSQL has them, to directories: pg_wal and pg_tblspc/<name> (the
 * tablespaces). An Error when the directory itself cannot be read.
 */
bool tree_walk(const TreeWalk *walk, Error *err) MUST_USE;

/* ---- check.c: one file against its manifest entry ---- */

typedef enum FileVerdict {
    FILE_AGREES,
    FILE_NOT_OPENED,
    FILE_NOT_READ,
    FILE_NOT_REGULAR,
    FILE_OTHER_SIZE,
    FILE_OTHER_LENGTH, /* of the checksum */
    FILE_DIFFERS
} FileVerdict;

typedef struct FileFinding {
    FileVerdict verdict;
    int errnum;    /* NOT_OPENED, NOT_READ */
    uint64_t read; /* OTHER_SIZE: bytes found */
} FileFinding;

/* What one worker needs to check files, one after the other. checker_free takes any state. */
typedef struct Checker {
    const char *directory;
    uint8_t *buffer;
    Checksum checksum;
    Buf path;
    /* Called as bytes are read; false ends the check with its Error. */
    bool (*tick)(void *ctx, uint64_t bytes, Error *err);
    void *tick_ctx;
} Checker;

bool checker_init(Checker *checker, const char *directory, Error *err) MUST_USE;
bool checker_check(Checker *checker, const ManifestFile *file, FileFinding *ret_finding,
                   Error *err) MUST_USE;
bool report_finding(Reporter *reporter, const ManifestFile *file, const FileFinding *finding,
                    Error *err) MUST_USE;
void checker_free(Checker *checker);

/* ---- wal.c ---- */

typedef struct WalRangeCheck {
    const char *directory;
    const ManifestWalRange *range;
    uint64_t system_id; /* 0: unknown */
    const Stop *stop;   /* may be NULL */
} WalRangeCheck;

bool wal_range_check(const WalRangeCheck *check, Reporter *reporter, Error *err) MUST_USE;

#endif
