#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "verify/internal.h"

/* What is digested at once, before its pages are looked at: it stays in the CPU's cache. */
#define DIGEST_PIECE ((size_t)128 * 1024)

/* Hints to the kernel cost as much as reading a small file. */
#define HINT_SIZE ((uint64_t)256 * 1024)

bool
checker_init(Checker *checker, const char *directory, const PageRules *rules, Error *err)
{
    *checker = (Checker){.directory = directory, .checksum = CHECKSUM_INIT, .path = BUF_INIT};
    checker->buffer = mem_alloc(CONTENT_PIECE, err);
    if (checker->buffer == NULL)
        return false;
    if (rules != NULL)
        checker->scan = page_scan_new(rules, err);
    return rules == NULL || checker->scan != NULL;
}

void
checker_free(Checker *checker)
{
    free(checker->buffer);
    checker->buffer = NULL;
    page_scan_free(checker->scan);
    checker->scan = NULL;
    checksum_free(&checker->checksum);
    buf_free(&checker->path);
}

/* ---- opening ---- */

int
content_open(const char *path, FileFinding *finding)
{
    /* The tree was looked at before: what is there now may be something else, even a pipe. */
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0) {
        finding->verdict = FILE_NOT_OPENED;
        finding->errnum = errno;
        file_close_quietly(fd);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        finding->verdict = FILE_NOT_REGULAR;
        file_close_quietly(fd);
        return -1;
    }
    return fd;
}

/*
 * What the kernel reads for us once must not push out what others use again. Dropping it afterwards
 * (DONTNEED) would drop what was cached before, too, and that cannot be told apart; NOREUSE leaves
 * those pages as they are and makes ours the first to go. It does nothing before Linux 6.3.
 */
static void
give_hints(int fd, uint64_t size)
{
    if (size <= HINT_SIZE)
        return;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_NOREUSE);
}

/* ---- reading ---- */

const char *
archive_path(const char *path, Oid *ret_tablespace)
{
    static const char tablespaces[] = "pg_tblspc/";
    const char *number = path + sizeof tablespaces - 1;
    char text[sizeof "4294967295"];
    size_t len;

    *ret_tablespace = 0;
    if (strncmp(path, tablespaces, sizeof tablespaces - 1) != 0)
        return path;
    len = strcspn(number, "/");
    if (len >= sizeof text || number[len] == '\0')
        return path;
    memcpy(text, number, len);
    text[len] = '\0';
    return u32_parse(text, ret_tablespace) ? number + len + 1 : path;
}

/* Whether its pages are looked at. */
static bool
begin_pages(Checker *checker, const ContentFile *file, uint64_t offset)
{
    Oid tablespace;
    const char *path;

    if (checker->scan == NULL)
        return false;
    if (file->listed == NULL) {
        page_scan_begin_segment(checker->scan, file->segment, file->size, offset);
        return true;
    }
    path = archive_path(file->path, &tablespace);
    return page_scan_begin(checker->scan, path, tablespace, file->size, offset);
}

static bool
take_content(Checker *checker, Span content, bool pages, Error *err)
{
    while (content.len > 0) {
        size_t len = content.len < DIGEST_PIECE ? content.len : DIGEST_PIECE;

        if (!checksum_update(&checker->checksum, content.data, len, err))
            return false;
        if (pages && !page_scan_feed(checker->scan, (Span){content.data, len}, err))
            return false;
        content.data += len;
        content.len -= len;
    }
    return true;
}

/* Up to the end of the range, which is that of the file when nothing can be read any more; at the
 * end of the file beyond that. A failed read is a finding, not an Error. */
static bool
read_range(Checker *checker, int fd, const ContentFile *file, const ContentRange *range,
           FileFinding *finding, Error *err)
{
    const uint64_t last = range->end == file->size ? file->size : range->end - 1;
    const bool pages = begin_pages(checker, file, range->offset);
    uint64_t at = range->offset;
    size_t got;

    do {
        Error unread = ERROR_INIT;

        if (!file_read(fd, checker->buffer, CONTENT_PIECE, buf_text(&checker->path), &got,
                       &unread)) {
            finding->verdict = FILE_NOT_READ;
            finding->errnum = unread.sys_errno;
            break;
        }
        if (!take_content(checker, (Span){checker->buffer, got}, pages, err))
            return false;
        if (checker->tick != NULL && !checker->tick(checker->tick_ctx, got, err))
            return false;
        at += got;
    } while (got == CONTENT_PIECE && at <= last);

    if (finding->verdict == FILE_AGREES && at != range->end) {
        finding->verdict = FILE_OTHER_SIZE;
        finding->read = at;
    }
    if (pages)
        page_scan_end(checker->scan, &finding->pages);
    return true;
}

static bool
check_open_file(Checker *checker, int fd, const ContentFile *file, const ContentRange *range,
                FileFinding *finding, Error *err)
{
    ChecksumType type = file->listed == NULL ? CHECKSUM_NONE : file->listed->checksum_type;

    give_hints(fd, range->end - range->offset);
    if (range->offset > 0 && lseek(fd, (off_t)range->offset, SEEK_SET) < 0) {
        finding->verdict = FILE_NOT_READ;
        finding->errnum = errno;
        return true;
    }
    return checksum_begin(&checker->checksum, type, err) &&
           read_range(checker, fd, file, range, finding, err) &&
           checksum_finish(&checker->checksum, &finding->digest, err);
}

bool
checker_check_range(Checker *checker, const ContentFile *file, const ContentRange *range,
                    FileFinding *ret_finding, Error *err)
{
    FileFinding finding = {.verdict = FILE_AGREES};
    bool ok = true;
    int fd;

    buf_clear(&checker->path);
    if (!buf_printf(&checker->path, err, "%s/%s", checker->directory, file->path))
        return false;
    fd = content_open(buf_text(&checker->path), &finding);
    if (fd >= 0) {
        ok = check_open_file(checker, fd, file, range, &finding, err);
        file_close_quietly(fd);
    }
    if (ok)
        *ret_finding = finding;
    return ok;
}

bool
checker_check(Checker *checker, const ContentFile *file, FileFinding *ret_finding, Error *err)
{
    const ContentRange all = {.offset = 0, .end = file->size};

    if (!checker_check_range(checker, file, &all, ret_finding, err))
        return false;
    finding_judge(ret_finding, file);
    return true;
}

/* ---- findings ---- */

static void
combine(Digest *digest, const Digest *more, uint64_t len)
{
    if (digest->type == CHECKSUM_CRC32C)
        put_le32(digest->bytes,
                 crc32c_combine(get_le32(digest->bytes), get_le32(more->bytes), len));
}

void
finding_add(FileFinding *finding, const FileFinding *more, const ContentRange *range)
{
    page_findings_add(&finding->pages, &more->pages);
    if (finding->verdict != FILE_AGREES)
        return;
    finding->verdict = more->verdict;
    finding->errnum = more->errnum;
    finding->read = more->read;
    combine(&finding->digest, &more->digest, range->end - range->offset);
}

void
finding_judge(FileFinding *finding, const ContentFile *file)
{
    if (finding->verdict != FILE_AGREES || file->listed == NULL ||
        file->listed->checksum_type == CHECKSUM_NONE)
        return;
    switch (digest_check(file->listed, finding->digest.bytes, finding->digest.len)) {
    case DIGEST_AGREES:
        break;
    case DIGEST_OTHER_LENGTH:
        finding->verdict = FILE_OTHER_LENGTH;
        break;
    case DIGEST_DIFFERS:
        finding->verdict = FILE_DIFFERS;
        break;
    }
}

static bool
report_size(Reporter *reporter, const ContentFile *file, uint64_t found, Error *err)
{
    const Problem problem = {
        .kind = PROBLEM_SIZE, .path = file->path, .expected = file->size, .found = found};

    return report(reporter, &problem, err, "file \"%s\" should contain %llu bytes, but read %llu",
                  file->path, (unsigned long long)file->size, (unsigned long long)found);
}

bool
report_finding(Reporter *reporter, const ContentFile *file, const FileFinding *finding, Error *err)
{
    const Span digest = {.data = finding->digest.bytes, .len = finding->digest.len};
    Problem problem = {.kind = PROBLEM_UNREADABLE, .path = file->path};
    char reason[ERRNO_TEXT_SIZE];

    switch (finding->verdict) {
    case FILE_AGREES:
        break;
    case FILE_NOT_OPENED:
        return report(reporter, &problem, err, "could not open file \"%s\": %s", file->path,
                      errno_text(finding->errnum, reason));
    case FILE_NOT_READ:
        return report(reporter, &problem, err, "could not read file \"%s\": %s", file->path,
                      errno_text(finding->errnum, reason));
    case FILE_NOT_REGULAR:
        problem.kind = PROBLEM_FILE_TYPE;
        return report(reporter, &problem, err, "\"%s\" is not a regular file or directory",
                      file->path);
    case FILE_OTHER_SIZE:
        return report_size(reporter, file, finding->read, err);
    case FILE_OTHER_LENGTH:
        return report_digest(reporter, file->listed, DIGEST_OTHER_LENGTH, digest, err);
    case FILE_DIFFERS:
        return report_digest(reporter, file->listed, DIGEST_DIFFERS, digest, err);
    }
    return true;
}
