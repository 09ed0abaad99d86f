/*
 * Verification: does what is there agree with the manifest, and is the WAL whole?
 *
 * What is found is a Problem, given to the caller's ProblemSink one at a time in a deterministic
 * order; an Error means that it was not possible to look. Nothing outside the backup is read. Links
 * without libpq: no server is needed.
 */
#ifndef PGSTOW_VERIFY_H
#define PGSTOW_VERIFY_H

#include "common/checksum.h"
#include "common/error.h"
#include "common/pgtypes.h"
#include "common/runtime.h"
#include "manifest/manifest.h"
#include "manifest/page_digests.h"
#include "stream/stream.h"

typedef enum ProblemKind {
    PROBLEM_MISSING,      /* in the manifest but not there */
    PROBLEM_EXTRA,        /* there but not in the manifest */
    PROBLEM_SIZE,         /* another size than the manifest says */
    PROBLEM_CHECKSUM,     /* another checksum than the manifest says */
    PROBLEM_UNREADABLE,   /* could not be opened or read */
    PROBLEM_FILE_TYPE,    /* neither a regular file nor a directory */
    PROBLEM_SYSTEM_ID,    /* of another cluster than the manifest */
    PROBLEM_CONTROL,      /* pg_control itself is damaged */
    PROBLEM_PAGE,         /* a data page whose checksum is wrong */
    PROBLEM_PAGE_CHANGED, /* another page than backup_pages knows */
    PROBLEM_WAL,          /* the WAL that the backup needs is missing or damaged */
    PROBLEM_DIRECTORY,    /* one that no server starts without is not there */
    PROBLEM_PAGE_DIGESTS  /* backup_pages itself is damaged, or of another backup */
} ProblemKind;

/* The block of a PROBLEM_PAGE or PROBLEM_PAGE_CHANGED that is about the file: how many pages of it
 * are bad, say. */
#define PROBLEM_WHOLE_FILE UINT32_MAX

typedef struct Problem {
    ProblemKind kind;
    const char *path;     /* as in the manifest; the WAL's directory or archive for PROBLEM_WAL */
    const char *message;  /* the line to show, in pg_verifybackup's words */
    Lsn lsn;              /* PROBLEM_WAL: the first bad LSN */
    uint32_t block;       /* PROBLEM_PAGE: within the relation fork; PROBLEM_PAGE_CHANGED: within
                           * the file; or PROBLEM_WHOLE_FILE */
    uint64_t expected;    /* of a page: the checksum or CRC it should have; PROBLEM_SIZE: bytes */
    uint64_t found;       /* likewise: the one it has */
    Span expected_digest; /* PROBLEM_CHECKSUM: as in the manifest; empty: not known */
    Span found_digest;
} Problem;

typedef struct ProblemSink {
    /* Returns false to stop looking (exit on first problem). What it gets is borrowed. */
    bool (*report)(void *ctx, const Problem *problem);
    void *ctx;
} ProblemSink;

/* ---- in flight: the ledger ---- */

/*
 * The Ledger records path, size and digest of every file that passes its stage; comparing it with
 * the manifest afterwards shows what was lost or altered between the server and us. It outlives
 * the chain. Files of a tablespace archive are recorded as pg_tblspc/<oid>/..., as the manifest
 * has them; a path that passes twice is an ERR_FORMAT.
 */
typedef struct Ledger Ledger;

Ledger *ledger_new(ChecksumType type, Error *err) MUST_USE;
void ledger_free(Ledger *ledger);

/* Before its stage is made: of each relation file, INCREMENTAL ones included, the CRC-32C of every
 * page goes to the writer. Borrows it. */
void ledger_digest_pages(Ledger *ledger, PageDigestWriter *writer);

/* A stage for parsed archives; passes everything on unchanged. Borrows the ledger. */
Sink *ledger_stage_new(Ledger *ledger, Sink *next, Error *err) MUST_USE;

/*
 * Every file of the manifest must have passed with its size and checksum, and nothing else may have
 * (files below pg_wal/ excepted, which manifests do not list). *ret_problems counts what was
 * reported.
 */
bool ledger_compare(const Ledger *ledger, const Manifest *manifest, const ProblemSink *sink,
                    uint64_t *ret_problems, Error *err) MUST_USE;

/* Files and bytes that passed. */
uint64_t ledger_file_count(const Ledger *ledger);
uint64_t ledger_byte_count(const Ledger *ledger);

/* ---- in flight: data pages ---- */

/*
 * page_check: a stage for parsed archives that looks at every page of every relation file that
 * passes (and of INCREMENTAL files, by the block numbers they name), and passes all on unchanged.
 * As the server does when it sends (backup/basebackup.c), pages without content (pd_upper 0) and
 * pages written after the backup began are not checked, nor files whose size is no multiple of the
 * page size. Unlike the server this stage cannot read a page again that was being written just
 * then: where the server does not check, such a page can look bad.
 * What is wrong with a file goes to the ProblemSink at the file's end: at most
 * PAGE_REPORTS_PER_FILE pages, that there are more, and how many there were, if more than one. An
 * INCREMENTAL file whose header is damaged is reported and counts as one bad page. A sink that has
 * enough (returns false) ends the looking, not the stream.
 */
#define PAGE_REPORTS_PER_FILE 5

typedef struct PageCheckConfig {
    Lsn start; /* of the backup */
    uint32_t page_size;
    uint32_t segment_pages; /* in one file of a relation */
    ProblemSink problems;
} PageCheckConfig;

/* Zeroed by page_check_new, then written by the pushing thread, at the end of each file. */
typedef struct PageTally {
    uint64_t checked; /* pages whose checksum was computed */
    uint64_t bad;
} PageTally;

Sink *page_check_new(Sink *next, const PageCheckConfig *config, PageTally *tally,
                     Error *err) MUST_USE;

/* ---- in flight: WAL ---- */

/*
 * wal_check: a stage for WAL segments as entries; follows the record chain from `start` and fails
 * with ERR_MISMATCH, naming segment and LSN, at the first record that is damaged or segment that
 * does not continue the one before. Entries that are no segments (history files) pass unchecked. A
 * later timeline's segment that begins at or before the position reached restarts the chain there.
 * `*checked_to` is the end of what is intact, at first `start`; written by the pushing thread, and
 * set back when the chain restarts.
 */
typedef struct WalCheckConfig {
    Lsn start;
    TimeLineID timeline;
    uint64_t system_id;
    uint32_t segment_size;
} WalCheckConfig;

Sink *wal_check_new(Sink *next, const WalCheckConfig *config, _Atomic Lsn *checked_to,
                    Error *err) MUST_USE;

/* ---- offline ---- */

typedef struct VerifyProgress {
    uint64_t done;  /* bytes */
    uint64_t total; /* bytes */
} VerifyProgress;

/* What was looked at, for whoever wants to know what "verified" means. */
typedef struct VerifySummary {
    uint64_t files;     /* whose content was digested, or looked at */
    uint64_t bytes;     /* of them */
    bool has_pages;     /* the cluster has data checksums, and they were asked for */
    uint64_t pages;     /* whose checksum was computed */
    uint64_t bad_pages; /* among them */
    uint32_t page_size; /* verify_pages: bytes / page_size pages were looked at; else 0 */
    uint64_t wal_bytes; /* of the WAL ranges that are intact */
    bool page_digests;  /* there is a sound backup_pages */
} VerifySummary;

/*
 * Data pages are checked in the same pass as the files' checksums, wherever pg_control says that
 * the cluster has data checksums: as page_check does, with the lowest start of the manifest's WAL
 * ranges.
 * A file that has changed is looked up in DIRECTORY/backup_pages, if there is one, which tells the
 * pages that have (manifest/page_digests.h).
 * Files, and ranges of big ones, are read by `jobs` threads; what is reported, and its order, does
 * not depend on their number.
 */
typedef struct VerifyConfig {
    const char *directory;
    const char *manifest_path; /* NULL: DIRECTORY/backup_manifest */
    const char *wal_directory; /* NULL: DIRECTORY/pg_wal, or the archives */
    const char *const *ignore; /* canonical relative paths; each with all below it */
    size_t ignore_count;
    bool skip_checksums; /* nor pages */
    bool skip_pages;
    bool skip_wal;
    unsigned jobs;          /* 0: as many as there are processors */
    VerifySummary *summary; /* may be NULL; written when the check ends without an Error */
    ProblemSink problems;
    /* Of the checksums, or of the archives; called from the calling thread, at most about ten times
     * a second and once at the end; may be NULL. */
    void (*progress)(void *ctx, const VerifyProgress *progress);
    void *progress_ctx;
    const Stop *stop; /* may be NULL */
} VerifyConfig;

/*
 * The whole check of a plain backup. *ret_problems counts what was reported: 0 means verified.
 * Links are followed to directories only, as pg_wal and pg_tblspc/<name>. An Error when the
 * manifest or the directory itself cannot be read.
 */
bool verify_plain(const VerifyConfig *config, uint64_t *ret_problems, Error *err) MUST_USE;

/*
 * Likewise a backup in tar format: a directory of archives, compressed or not, each as it came from
 * the server or from pg_basebackup. Every archive is read once; one that is damaged, or cut short,
 * is a problem, and its files from there on are missing. With more than one job an archive is read
 * and decompressed in one thread and looked at in another one, the calling thread. Where no
 * directory is named for the WAL, it is looked for in pg_wal.tar or, without one, in base.tar; the
 * manifest, if it is not beside the archives and no other place is named, in base.tar. Data pages
 * are checked where they have the usual size and number in a file. No links are followed.
 */
bool verify_tar(const VerifyConfig *config, uint64_t *ret_problems, Error *err) MUST_USE;

/*
 * The data pages of a cluster that was shut down, without a manifest: what pg_checksums --check
 * does, in its words. No page is too new to be checked. An Error when the cluster has no checksums,
 * was not shut down, or its pg_control cannot be used. What the config says of the manifest, the
 * WAL and what to skip does not matter.
 */
bool verify_pages(const VerifyConfig *config, uint64_t *ret_problems, Error *err) MUST_USE;

/*
 * One WAL range against the segments of a directory: reports at most one problem, the directory's
 * or a file's not being there or readable included. The segment size is what the segments say.
 */
bool verify_wal_range(const char *wal_directory, const ManifestWalRange *range, uint64_t system_id,
                      const ProblemSink *sink, uint64_t *ret_problems, Error *err) MUST_USE;

#endif
