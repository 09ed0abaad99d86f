#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stdlib.h>

#include "common/file.h"
#include "verify/internal.h"

#define READ_SIZE ((size_t)1024 * 1024)

bool
checker_init(Checker *checker, const char *directory, Error *err)
{
    *checker = (Checker){.directory = directory, .checksum = CHECKSUM_INIT, .path = BUF_INIT};
    checker->buffer = mem_alloc(READ_SIZE, err);
    return checker->buffer != NULL;
}

void
checker_free(Checker *checker)
{
    free(checker->buffer);
    checker->buffer = NULL;
    checksum_free(&checker->checksum);
    buf_free(&checker->path);
}

/* -1 and the finding when there is nothing to read. */
static int
open_regular(const char *path, FileFinding *finding)
{
    /* The tree was looked at before: what is there now may be something else, even a pipe. */
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0) {
        *finding = (FileFinding){.verdict = FILE_NOT_OPENED, .errnum = errno};
        file_close_quietly(fd);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        *finding = (FileFinding){.verdict = FILE_NOT_REGULAR};
        file_close_quietly(fd);
        return -1;
    }
    return fd;
}

/* Digest up to the end of the file or beyond `size`; a failed read is a finding, not an Error. */
static bool
digest_content(Checker *checker, int fd, uint64_t size, FileFinding *finding, Error *err)
{
    uint64_t total = 0;
    size_t got;

    do {
        Error unread = ERROR_INIT;

        if (!file_read(fd, checker->buffer, READ_SIZE, buf_text(&checker->path), &got, &unread)) {
            *finding = (FileFinding){.verdict = FILE_NOT_READ, .errnum = unread.sys_errno};
            return true;
        }
        if (!checksum_update(&checker->checksum, checker->buffer, got, err))
            return false;
        if (checker->tick != NULL && !checker->tick(checker->tick_ctx, got, err))
            return false;
        total += got;
    } while (got == READ_SIZE && total <= size);

    if (total != size)
        *finding = (FileFinding){.verdict = FILE_OTHER_SIZE, .read = total};
    return true;
}

static FileVerdict
verdict_of(DigestVerdict verdict)
{
    switch (verdict) {
    case DIGEST_AGREES:
        break;
    case DIGEST_OTHER_LENGTH:
        return FILE_OTHER_LENGTH;
    case DIGEST_DIFFERS:
        return FILE_DIFFERS;
    }
    return FILE_AGREES;
}

static bool
check_content(Checker *checker, int fd, const ManifestFile *file, FileFinding *finding, Error *err)
{
    Digest digest;

    if (!checksum_begin(&checker->checksum, file->checksum_type, err) ||
        !digest_content(checker, fd, file->size, finding, err))
        return false;
    if (finding->verdict != FILE_AGREES)
        return true;
    if (!checksum_finish(&checker->checksum, &digest, err))
        return false;
    finding->verdict = verdict_of(digest_check(file, digest.bytes, digest.len));
    return true;
}

bool
checker_check(Checker *checker, const ManifestFile *file, FileFinding *ret_finding, Error *err)
{
    FileFinding finding = {.verdict = FILE_AGREES};
    bool ok = true;
    int fd;

    buf_clear(&checker->path);
    if (!buf_printf(&checker->path, err, "%s/%s", checker->directory, file->path))
        return false;
    fd = open_regular(buf_text(&checker->path), &finding);
    if (fd >= 0) {
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a hint */
        ok = check_content(checker, fd, file, &finding, err);
        file_close_quietly(fd);
    }
    if (ok)
        *ret_finding = finding;
    return ok;
}

bool
report_finding(Reporter *reporter, const ManifestFile *file, const FileFinding *finding, Error *err)
{
    Problem problem = {.path = file->path};
    char reason[ERRNO_TEXT_SIZE];

    switch (finding->verdict) {
    case FILE_AGREES:
        break;
    case FILE_NOT_OPENED:
        problem.kind = PROBLEM_UNREADABLE;
        return report(reporter, &problem, err, "could not open file \"%s\": %s", file->path,
                      errno_text(finding->errnum, reason));
    case FILE_NOT_READ:
        problem.kind = PROBLEM_UNREADABLE;
        return report(reporter, &problem, err, "could not read file \"%s\": %s", file->path,
                      errno_text(finding->errnum, reason));
    case FILE_NOT_REGULAR:
        problem.kind = PROBLEM_FILE_TYPE;
        return report(reporter, &problem, err, "\"%s\" is not a regular file or directory",
                      file->path);
    case FILE_OTHER_SIZE:
        problem.kind = PROBLEM_SIZE;
        return report(reporter, &problem, err,
                      "file \"%s\" should contain %llu bytes, but read %llu", file->path,
                      (unsigned long long)file->size, (unsigned long long)finding->read);
    case FILE_OTHER_LENGTH:
        return report_digest(reporter, file, DIGEST_OTHER_LENGTH, err);
    case FILE_DIFFERS:
        return report_digest(reporter, file, DIGEST_DIFFERS, err);
    }
    return true;
}
