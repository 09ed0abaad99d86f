/*
 * What the files of this room share. Only they and their unit tests include it.
 */
#ifndef PGSTOW_VERIFY_INTERNAL_H
#define PGSTOW_VERIFY_INTERNAL_H

#include <sys/types.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "manifest/page_digests.h"
#include "pgformat/control.h"
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
bool report_digest(Reporter *reporter, const ManifestFile *file, DigestVerdict verdict, Span found,
                   Error *err) MUST_USE;

/* Likewise with a message of one's own: all but that of such a problem. */
Problem digest_problem(const ManifestFile *file, Span found);

/* ---- member_path.c: what a member of an archive is called in the manifest ---- */

/* Into `path`, in place of what it holds: those of a tablespace lie below pg_tblspc/<oid>. */
bool member_path(Oid tablespace, const Entry *entry, Buf *path, Error *err) MUST_USE;

/* ---- page_scan.c: the pages of one file, as its bytes pass; for page_check and offline ---- */

/* Which pages count: page_check in verify.h says it. */
typedef struct PageRules {
    uint32_t page_size;
    uint32_t segment_pages; /* in one file of a relation */
    Lsn start;              /* pages changed there or later are not checked; LSN_MAX: all are */
} PageRules;

typedef struct BadPage {
    uint32_t block; /* of the relation fork */
    uint16_t expected;
    uint16_t found;
} BadPage;

/* Of one file, or of a range of it. */
typedef struct PageFindings {
    PageTally tally;
    BadPage first[PAGE_REPORTS_PER_FILE]; /* at most tally.bad of them */
    char header[96]; /* what is wrong with that of an INCREMENTAL file, which counts as one bad
                      * page; or "" */
} PageFindings;

typedef struct PageScan PageScan;

PageScan *page_scan_new(const PageRules *rules, Error *err) MUST_USE;
void page_scan_free(PageScan *scan);

/*
 * `path` is below the root of an archive, as relfile_parse takes it. The bytes from `offset` on
 * will follow, a multiple of the page size, which is 0 for INCREMENTAL files: they are scanned
 * whole.
 * False: no page of this file is to be checked, and page_scan_feed is not called.
 */
bool page_scan_begin(PageScan *scan, const char *path, Oid tablespace, uint64_t size,
                     uint64_t offset);

/* Whatever its name: all of its whole pages are those of this segment of a relation. */
void page_scan_begin_segment(PageScan *scan, uint32_t segment, uint64_t size, uint64_t offset);
bool page_scan_feed(PageScan *scan, Span data, Error *err) MUST_USE;
void page_scan_end(PageScan *scan, PageFindings *ret_findings);

/* Of the range that follows. */
void page_findings_add(PageFindings *findings, const PageFindings *more);

/* The lines that page_check reports about a file. */
bool report_pages(Reporter *reporter, const char *path, const PageFindings *findings,
                  Error *err) MUST_USE;

/* ---- page_digester.c: the pages of one file on their way into backup_pages ---- */

typedef struct PageDigester {
    PageDigestWriter *writer; /* borrowed */
    uint32_t page_size;
    uint64_t due;      /* pages of the file at hand that have not come yet */
    size_t have;       /* bytes of the page at hand */
    uint32_t page_crc; /* of them */
    uint32_t file_crc; /* of the pages before it */
    Crc32cJoin join;
} PageDigester;

void page_digester_init(PageDigester *digester, PageDigestWriter *writer);
bool page_digester_begin(PageDigester *digester, const char *path, uint64_t size,
                         Error *err) MUST_USE;
bool page_digester_feed(PageDigester *digester, Span data, Error *err) MUST_USE;

/* *ret_crc is the CRC of all that came, from those of its pages. */
bool page_digester_end(PageDigester *digester, uint32_t *ret_crc, Error *err) MUST_USE;

/* ---- page_compare.c: a file that has changed, against backup_pages ---- */

typedef struct PageCompare PageCompare;

/* Borrows `digests`. */
PageCompare *page_compare_new(const PageDigests *digests, Error *err) MUST_USE;
void page_compare_free(PageCompare *compare);

/* False: backup_pages does not have this file, or has it with another size. All of it follows.
 * Borrows `path` until the report. */
bool page_compare_begin(PageCompare *compare, const char *path, uint64_t size);
bool page_compare_feed(PageCompare *compare, Span data, Error *err) MUST_USE;

/* The pages that have changed: one problem for each of the first PAGE_REPORTS_PER_FILE, and the
 * rest in one more. */
bool page_compare_report(PageCompare *compare, Reporter *reporter, Error *err) MUST_USE;

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
    TREE_DIRECTORY, /* one that is looked into next, unless that is not wanted */
    TREE_FILE,      /* a regular file */
    TREE_ODD,       /* neither a file nor a directory, or a link that is not followed */
    TREE_NO_STAT,   /* nothing can be learnt about it */
    TREE_NO_OPEN,   /* a directory that cannot be opened */
    TREE_NO_READ    /* a directory of which some entries could not be read */
} TreeWhat;

typedef struct TreeItem {
    TreeWhat what;
    const char *path; /* below the root; borrowed for the call */
    uint64_t size;    /* TREE_FILE */
    int errnum;       /* the TREE_NO_... */
} TreeItem;

typedef enum TreeNext {
    TREE_GO_ON,
    TREE_SKIP, /* TREE_DIRECTORY: not into it */
    TREE_ENOUGH,
    TREE_FAILED
} TreeNext;

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

/* What is there but could not be looked into. */
bool report_unknown(Reporter *reporter, const TreeItem *item, Error *err) MUST_USE;

/* ---- check.c: the content of one file ---- */

/* A file that is to be read. */
typedef struct ContentFile {
    const char *path; /* below the directory */
    uint64_t size;
    const ManifestFile *listed; /* with its digest; the name says whether it has pages; or NULL: */
    uint32_t segment;           /* all of it is pages of this segment of a relation */
} ContentFile;

/* From `offset` up to `end`, which is the file's end or a multiple of CONTENT_PIECE. */
typedef struct ContentRange {
    uint64_t offset;
    uint64_t end;
} ContentRange;

#define CONTENT_PIECE ((size_t)1024 * 1024) /* bytes that are read at once */

typedef enum FileVerdict {
    FILE_AGREES,
    FILE_NOT_OPENED,
    FILE_NOT_READ,
    FILE_NOT_REGULAR,
    FILE_OTHER_SIZE,
    FILE_OTHER_LENGTH, /* of the checksum */
    FILE_DIFFERS
} FileVerdict;

/* Of a file, or of a range of it that has not been judged yet. */
typedef struct FileFinding {
    FileVerdict verdict;
    int errnum;    /* NOT_OPENED, NOT_READ */
    uint64_t read; /* OTHER_SIZE: bytes found */
    Digest digest; /* of what was read, if all of it was */
    PageFindings pages;
} FileFinding;

/* What one worker needs to check files, one after the other. checker_free takes any state. */
typedef struct Checker {
    const char *directory;
    uint8_t *buffer;
    Checksum checksum;
    PageScan *scan; /* NULL: nobody looks at pages */
    Buf path;
    /* Called as bytes are read; false ends the check with its Error. */
    bool (*tick)(void *ctx, uint64_t bytes, Error *err);
    void *tick_ctx;
} Checker;

/* `rules` may be NULL: nobody looks at pages. */
bool checker_init(Checker *checker, const char *directory, const PageRules *rules,
                  Error *err) MUST_USE;

/* All of the file, and the verdict on it. */
bool checker_check(Checker *checker, const ContentFile *file, FileFinding *ret_finding,
                   Error *err) MUST_USE;

/* A range, whose finding joins those of the ranges before it; the last one is judged. */
bool checker_check_range(Checker *checker, const ContentFile *file, const ContentRange *range,
                         FileFinding *ret_finding, Error *err) MUST_USE;
void finding_add(FileFinding *finding, const FileFinding *more, const ContentRange *range);
void finding_judge(FileFinding *finding, const ContentFile *file);

/* As pg_verifybackup reads it; the pages are not part of that. */
bool report_finding(Reporter *reporter, const ContentFile *file, const FileFinding *finding,
                    Error *err) MUST_USE;
void checker_free(Checker *checker);

/* Below the root of its archive, and which that is: what relfile_parse takes. */
const char *archive_path(const char *path, Oid *ret_tablespace);

/* -1 and the finding when it cannot be opened, or is no regular file. */
int content_open(const char *path, FileFinding *finding);

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
    Manifest *manifest; /* NULL: there is none, only pages count */
    uint8_t *marks;     /* a FileMark per file of the manifest */
    PathSet ignore;     /* sorted */
    PathSet unknown; /* on disk, but what it holds is not known: nothing below is called missing */
    char *wal_directory;
    WalScan *wal_scan; /* of archives; NULL: they are not asked for WAL */
    bool has_control;  /* pg_control was found, and is sound: */
    ControlData control;
    uint32_t directories;  /* a bit for each of the required ones that is there */
    PageDigests *digests;  /* a sound backup_pages, once it was looked for; NULL: none */
    PageCompare *compare;  /* with it */
    VerifySummary summary; /* its files, bytes, pages and WAL are for each step to fill */
    Reporter reporter;
    VerifyProgress progress;
    int64_t progress_ms; /* when it was last told */
} Verifier;

void verifier_tell_progress(Verifier *verifier, bool at_end);
void verifier_free(Verifier *verifier);

/* Where the WAL begins that the manifest asks for; LSN_MAX: it asks for none. */
Lsn verifier_wal_start(const Verifier *verifier);

/* ---- control_check.c: pg_control ---- */

#define CONTROL_PATH "global/pg_control"

/* What is wrong with it is a problem of its kind; `where` names it. If it is sound, the verifier
 * has it from here on, of whichever cluster it is. */
bool verifier_check_control(Verifier *verifier, const ManifestFile *file, const char *where,
                            Span content, Error *err) MUST_USE;

/* The same for that in the directory; one that cannot be read is a problem, and MARK_BAD. */
bool verifier_read_control(Verifier *verifier, const ManifestFile *file, Error *err) MUST_USE;

/* False: the cluster's pages carry no checksums, or none that we know. */
bool control_page_rules(const ControlData *control, Lsn start, PageRules *ret_rules);

/* Up to CONTROL_FILE_SIZE bytes of a file; an Error when they cannot be had. No links. */
bool control_read(const char *path, uint8_t *bytes, size_t *ret_len, Error *err) MUST_USE;

/* ---- required_dirs.c: directories that a server does not start without ---- */

/* A directory is there; any path will do. */
void verifier_note_directory(Verifier *verifier, const char *path);

/* Those that are not there, in both formats; nothing that is ignored, or below what is unknown,
 * which is sorted. */
bool verifier_report_directories(Verifier *verifier, Error *err) MUST_USE;

/* ---- digests_check.c: backup_pages beside the manifest, in both formats ---- */

/*
 * Looks for it in the directory, unless nobody wants it (-s, or it is ignored): it is read whole,
 * and must agree with the manifest. What is wrong with it is a problem. If it is sound, the
 * verifier has it, and what compares pages with it.
 */
bool verifier_open_digests(Verifier *verifier, Error *err) MUST_USE;

/* That problem: `what` is wrong with it. */
bool verifier_report_digests(Verifier *verifier, const char *what, Error *err) MUST_USE;

/* ---- contents.c: many files, side by side ---- */

typedef struct ContentList {
    size_t count;
    const PageRules *rules; /* NULL: nobody looks at pages */
    void *ctx;

    /* In any thread. False: the file of this number is not to be read. */
    bool (*file)(const void *ctx, size_t number, ContentFile *ret_file);

    /* In the calling thread, in the order of the numbers: something is wrong with it. */
    bool (*report)(void *ctx, const ContentFile *file, const FileFinding *finding, Error *err);
} ContentList;

/* Reads all files, up to where the verifier's reporter has enough; counts them in its summary. */
bool contents_check(Verifier *verifier, const ContentList *list, Error *err) MUST_USE;

/* ---- plain_contents.c: the step of a plain backup ---- */

bool verifier_check_contents(Verifier *verifier, Error *err) MUST_USE;

/* ---- archive_pages.c: the data pages in archives, until it is known whether they count ---- */

typedef struct ArchivePages ArchivePages;

/* `start` as in PageRules. */
ArchivePages *archive_pages_new(Lsn start, Error *err) MUST_USE;
void archive_pages_free(ArchivePages *pages);

/* False: no page of this file is looked at, and neither feed nor end is called. */
bool archive_pages_begin(ArchivePages *pages, const Entry *entry, Oid tablespace);
bool archive_pages_feed(ArchivePages *pages, Span data, Error *err) MUST_USE;

/* `index` is the file's in the manifest. */
bool archive_pages_end(ArchivePages *pages, size_t index, Error *err) MUST_USE;

/* If the verifier's control file says that they count: in the order of the manifest, and in its
 * summary. */
bool archive_pages_report(ArchivePages *pages, Verifier *verifier, Error *err) MUST_USE;

/* ---- archive_read.c: the bytes of one archive ---- */

typedef enum ReadNext { READ_GO_ON, READ_ENOUGH, READ_FAILED } ReadNext;

typedef struct ArchiveSource {
    int fd;           /* of the file, at its beginning; stays open */
    const char *name; /* of the file; its suffix tells the compression */
    Oid tablespace;
    bool threaded; /* the file is read and decompressed in a thread of its own */
    /* In the calling thread, behind each piece that has passed the chain: so many more bytes of the
     * file have been read. ENOUGH ends the reading with success. */
    ReadNext (*passed)(void *ctx, size_t bytes, Error *err);
    void *ctx;
} ArchiveSource;

/*
 * Pushes the whole archive, decompressed, into `chain`, which it owns, in the calling thread. What
 * there is in front of damage passes before the damage is told: what passes, and which failure is
 * returned, does not depend on `threaded`.
 */
bool archive_read(const ArchiveSource *source, Sink *chain, Error *err) MUST_USE;

/* ---- archive_list.c: what is in the directory of a backup in tar format ---- */

/* In the order in which they are read. */
typedef enum ArchiveKind { ARCHIVE_TABLESPACE, ARCHIVE_BASE, ARCHIVE_WAL } ArchiveKind;

typedef struct ArchiveFile {
    const char *name; /* one of the list's names */
    ArchiveKind kind;
    Oid tablespace;
    uint64_t size; /* of the file as it lies there */
} ArchiveFile;

typedef struct ArchiveList {
    PathSet names; /* of everything in the directory that is not ignored */
    ArchiveFile *files;
    size_t count;
    size_t capacity;
    bool has_wal; /* there is an archive of pg_wal */
} ArchiveList;

#define ARCHIVE_LIST_INIT ((ArchiveList){.names = PATH_SET_INIT})

/* What is no archive is a problem. The list is to be freed in any case. */
bool archive_list_read(ArchiveList *list, Verifier *verifier, Error *err) MUST_USE;
void archive_list_free(ArchiveList *list);

/* ---- archive.c: the archives of a backup in tar format ---- */

/* All of them are read: their files get their marks, and their WAL passes verifier->wal_scan. */
bool archives_check(Verifier *verifier, Error *err) MUST_USE;

/* Is there more than one thread to read them with? */
bool archives_threaded(const VerifyConfig *config);

/* ---- archive_manifest.c: the manifest as the last member of base.tar, as -D - leaves it ---- */

/*
 * There is none beside the archives, for which `err` has the reason: it stays where there is no
 * base.tar either, or one that does not hold the manifest.
 */
bool archives_load_manifest(const VerifyConfig *config, Manifest **ret_manifest,
                            Error *err) MUST_USE;

/* ---- member_check.c ---- */

/*
 * A stage for parsed archives that compares the files that pass with the manifest, reports and
 * marks them, and passes everything on. A file counts as seen once it has passed whole. `archive`
 * is the name to report; `pages` may be NULL: nobody looks at them. All are borrowed.
 */
Sink *member_check_new(Verifier *verifier, const char *archive, ArchivePages *pages, Sink *next,
                       Error *err) MUST_USE;

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

/* At the end: at most one problem per range, in their order. `system_id` (0: unknown) is that of
 * the cluster, which may have become known only now. */
bool wal_scan_report(const WalScan *scan, uint64_t system_id, Reporter *reporter,
                     Error *err) MUST_USE;

/* Bytes of the ranges that are intact. */
uint64_t wal_scan_intact(const WalScan *scan);

/* ---- wal.c ---- */

typedef struct WalRangeCheck {
    const char *directory;
    const ManifestWalRange *range;
    uint64_t system_id; /* 0: unknown */
    const Stop *stop;   /* may be NULL */
} WalRangeCheck;

bool wal_range_check(const WalRangeCheck *check, Reporter *reporter, Error *err) MUST_USE;

#endif
