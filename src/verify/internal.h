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

/* ---- member_path.c: what a member of an archive is called in the manifest ---- */

/* Into `path`, in place of what it holds: those of a tablespace lie below pg_tblspc/<oid>. */
bool member_path(Oid tablespace, const Entry *entry, Buf *path, Error *err) MUST_USE;

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

/* ---- verify.c: a backup on its way through the steps of its format ---- */

/* What is known of a file of the manifest. */
typedef enum FileMark {
    MARK_UNSEEN, /* nothing of that name is there */
    MARK_SEEN,   /* there with the right size */
    MARK_BAD     /* there, and reported already */
} FileMark;

typedef struct WalScan WalScan;

typedef struct Verifier {
    const VerifyConfig *config;
    Manifest *manifest;
    uint8_t *marks;  /* a FileMark per file of the manifest */
    PathSet ignore;  /* sorted */
    PathSet unknown; /* on disk, but what it holds is not known: nothing below is called missing */
    char *wal_directory;
    WalScan *wal_scan; /* of archives; NULL: they are not asked for WAL */
    Reporter reporter;
    VerifyProgress progress;
    int64_t progress_ms; /* when it was last told */
} Verifier;

#define CONTROL_PATH "global/pg_control"

/* What pg_control has to say is a problem of its kind; `where` names it. */
bool verifier_check_control(Verifier *verifier, const ManifestFile *file, const char *where,
                            Span content, Error *err) MUST_USE;
void verifier_tell_progress(Verifier *verifier, bool at_end);

/* ---- archive.c: the archives of a backup in tar format ---- */

/* All of them are read: their files get their marks, and their WAL passes verifier->wal_scan. */
bool archives_check(Verifier *verifier, Error *err) MUST_USE;

/* ---- member_check.c ---- */

/*
 * A stage for parsed archives that compares the files that pass with the manifest, reports and
 * marks them, and passes everything on. A file counts as seen once it has passed whole. `archive`
 * is the name to report; both are borrowed.
 */
Sink *member_check_new(Verifier *verifier, const char *archive, Sink *next, Error *err) MUST_USE;

/* ---- wal_scan.c: the WAL that a manifest asks for, from archives ---- */

WalScan *wal_scan_new(const Manifest *manifest, Error *err) MUST_USE;
void wal_scan_free(WalScan *scan);

/*
 * A stage for parsed archives that checks the segments among the files whose path begins with
 * `prefix`; those of one timeline must pass in their order. Passes everything on. `archive` is the
 * name to report. Borrows all three.
 */
Sink *wal_scan_stage_new(WalScan *scan, const char *archive, const char *prefix, Sink *next,
                         Error *err) MUST_USE;

/* At the end: at most one problem per range, in their order. */
bool wal_scan_report(const WalScan *scan, Reporter *reporter, Error *err) MUST_USE;

/* ---- wal.c ---- */

typedef struct WalRangeCheck {
    const char *directory;
    const ManifestWalRange *range;
    uint64_t system_id; /* 0: unknown */
    const Stop *stop;   /* may be NULL */
} WalRangeCheck;

bool wal_range_check(const WalRangeCheck *check, Reporter *reporter, Error *err) MUST_USE;

#endif
