/*
 * The reader goes through the file once, from its beginning to its end, with a buffer of fixed
 * size: a length that the rest of the file cannot hold is refused before anything is done with it,
 * so what a hostile file costs is bounded by its own size. CRCs are read where they are wanted.
 */
#include "manifest/page_digests.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "common/path_index.h"

#define MAGIC       "PGSTOWPD"
#define MAGIC_SIZE  ((size_t)8)
#define BUFFER_SIZE ((size_t)64 * 1024)

/* As in manifests: PATH_MAX without its terminator. */
#define PATH_LIMIT 4095u

/* CRCs that are read at once where the whole file is gone through. */
#define CRC_BATCH ((size_t)1024)

static bool
is_page_size(uint32_t size)
{
    return size >= 1024 && size <= 32768 && (size & (size - 1)) == 0;
}

static uint64_t
pages_of(uint64_t size, uint32_t page_size)
{
    return size / page_size + (size % page_size != 0);
}

/* ---- writing ---- */

struct PageDigestWriter {
    char *path;
    int fd;
    uint32_t page_size;
    uint64_t files;
    uint64_t due; /* CRCs of the file at hand that have not come yet */
    uint32_t crc; /* of all that has been written */
    size_t len;
    uint8_t buffer[BUFFER_SIZE];
};

static bool
write_out(PageDigestWriter *writer, Error *err)
{
    if (!file_write(writer->fd, writer->buffer, writer->len, writer->path, err))
        return false;
    writer->crc = crc32c(writer->crc, writer->buffer, writer->len);
    writer->len = 0;
    return true;
}

static bool
put(PageDigestWriter *writer, const void *data, size_t len, Error *err)
{
    if (len > sizeof writer->buffer - writer->len && !write_out(writer, err))
        return false;
    memcpy(writer->buffer + writer->len, data, len);
    writer->len += len;
    return true;
}

static bool
put_number32(PageDigestWriter *writer, uint32_t value, Error *err)
{
    uint8_t bytes[4];

    put_le32(bytes, value);
    return put(writer, bytes, sizeof bytes, err);
}

static bool
put_number64(PageDigestWriter *writer, uint64_t value, Error *err)
{
    uint8_t bytes[8];

    put_le64(bytes, value);
    return put(writer, bytes, sizeof bytes, err);
}

static bool
create(PageDigestWriter *writer, const char *path, mode_t mode, Error *err)
{
    writer->path = mem_strdup(path, err);
    if (writer->path == NULL)
        return false;
    writer->fd = file_open(path, O_WRONLY | O_CREAT | O_EXCL, mode, err);
    if (writer->fd < 0)
        return false;
    if (fchmod(writer->fd, mode) != 0) /* the umask may have taken something */
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"", path);
    return true;
}

PageDigestWriter *
page_digest_writer_new(const char *path, mode_t mode, uint32_t page_size, Error *err)
{
    PageDigestWriter *writer;

    if (!is_page_size(page_size)) {
        (void)error_set(err, ERR_UNSUPPORTED, "pages of %u bytes are not supported", page_size);
        return NULL;
    }
    writer = mem_zero(sizeof *writer, err);
    if (writer == NULL)
        return NULL;
    writer->fd = -1;
    writer->page_size = page_size;
    if (!create(writer, path, mode, err) || !put(writer, MAGIC, MAGIC_SIZE, err) ||
        !put_number32(writer, PAGE_DIGESTS_VERSION, err) || !put_number32(writer, page_size, err)) {
        page_digest_writer_free(writer);
        return NULL;
    }
    return writer;
}

uint32_t
page_digest_writer_page_size(const PageDigestWriter *writer)
{
    return writer->page_size;
}

bool
page_digest_writer_begin(PageDigestWriter *writer, const char *path, uint64_t size, Error *err)
{
    size_t len = strlen(path);

    if (writer->due != 0)
        return error_set(err, ERR_BUG, "file \"%s\" begins before all pages of the one before came",
                         path);
    if (len > PATH_LIMIT || !path_is_below(path))
        return error_set(err, ERR_BUG, "file \"%s\" cannot be in page digests", path);
    writer->due = pages_of(size, writer->page_size);
    writer->files++;
    return put_number32(writer, (uint32_t)len, err) && put(writer, path, len, err) &&
           put_number64(writer, size, err);
}

bool
page_digest_writer_add(PageDigestWriter *writer, uint32_t crc, Error *err)
{
    if (writer->due == 0)
        return error_set(err, ERR_BUG, "a file has more pages than its size says");
    writer->due--;
    return put_number32(writer, crc, err);
}

static bool
write_end(PageDigestWriter *writer, Error *err)
{
    uint8_t crc[4];

    if (!put_number32(writer, 0, err) || !put_number64(writer, writer->files, err) ||
        !write_out(writer, err))
        return false;
    put_le32(crc, writer->crc);
    return file_write(writer->fd, crc, sizeof crc, writer->path, err);
}

bool
page_digest_writer_finish(PageDigestWriter *writer, bool sync, Error *err)
{
    int fd = writer->fd;

    if (writer->due != 0)
        return error_set(err, ERR_BUG, "page digests end before all pages of a file came");
    if (!write_end(writer, err) || (sync && !file_sync(fd, writer->path, err)))
        return false;
    writer->fd = -1;
    return file_close(fd, writer->path, err);
}

void
page_digest_writer_free(PageDigestWriter *writer)
{
    if (writer == NULL)
        return;
    file_close_quietly(writer->fd);
    free(writer->path);
    free(writer);
}

/* ---- reading: from the beginning to the end ---- */

struct PageDigests {
    char *path;
    int fd;
    uint32_t page_size;
    PathIndex *paths;
    PageDigestFile *files; /* by the number of the path */
    size_t capacity;
    Crc32cJoin join; /* by whole pages */
};

typedef struct Scan {
    const PageDigests *digests;
    uint64_t size; /* of the file */
    uint64_t left; /* of it, from here on */
    uint32_t crc;  /* of all before */
    size_t at;     /* in the buffer */
    size_t len;
    uint8_t buffer[BUFFER_SIZE];
} Scan;

static bool
damaged(const PageDigests *digests, const char *what, Error *err)
{
    return error_set(err, ERR_FORMAT, "file \"%s\" is damaged: %s", digests->path, what);
}

static bool
ends_early(const PageDigests *digests, Error *err)
{
    return damaged(digests, "it ends too early", err);
}

static bool
refill(Scan *scan, Error *err)
{
    const PageDigests *digests = scan->digests;

    scan->at = 0;
    return file_read(digests->fd, scan->buffer, sizeof scan->buffer, digests->path, &scan->len,
                     err) &&
           (scan->len > 0 || ends_early(digests, err));
}

/* The next `len` bytes to `to`, which may be NULL. */
static bool
take(Scan *scan, uint8_t *to, uint64_t len, Error *err)
{
    if (len > scan->left)
        return ends_early(scan->digests, err);
    while (len > 0) {
        size_t piece;

        if (scan->at == scan->len && !refill(scan, err))
            return false;
        piece = scan->len - scan->at;
        if (piece > len)
            piece = (size_t)len;
        if (to != NULL) {
            memcpy(to, scan->buffer + scan->at, piece);
            to += piece;
        }
        scan->crc = crc32c(scan->crc, scan->buffer + scan->at, piece);
        scan->at += piece;
        scan->left -= piece;
        len -= piece;
    }
    return true;
}

static bool
take32(Scan *scan, uint32_t *ret_value, Error *err)
{
    uint8_t bytes[4];

    if (!take(scan, bytes, sizeof bytes, err))
        return false;
    *ret_value = get_le32(bytes);
    return true;
}

static bool
take64(Scan *scan, uint64_t *ret_value, Error *err)
{
    uint8_t bytes[8];

    if (!take(scan, bytes, sizeof bytes, err))
        return false;
    *ret_value = get_le64(bytes);
    return true;
}

static bool
take_head(Scan *scan, PageDigests *digests, Error *err)
{
    uint8_t magic[MAGIC_SIZE];
    uint32_t version;

    if (!take(scan, magic, sizeof magic, err))
        return false;
    if (memcmp(magic, MAGIC, sizeof magic) != 0)
        return error_set(err, ERR_FORMAT, "file \"%s\" does not hold page digests", digests->path);
    if (!take32(scan, &version, err) || !take32(scan, &digests->page_size, err))
        return false;
    if (version != PAGE_DIGESTS_VERSION)
        return error_set(err, ERR_FORMAT, "file \"%s\" has version %u of its format, not %u",
                         digests->path, version, PAGE_DIGESTS_VERSION);
    return is_page_size(digests->page_size) || damaged(digests, "no pages have its page size", err);
}

static bool
add_file(PageDigests *digests, const char *path, size_t len, const PageDigestFile *file, Error *err)
{
    void *files = digests->files;
    uint32_t number;
    bool added;

    if (!mem_grow(&files, &digests->capacity, path_index_count(digests->paths) + 1,
                  sizeof(PageDigestFile), err))
        return false;
    digests->files = files;
    if (!path_index_add(digests->paths, path, len, &number, &added, err))
        return false;
    if (!added)
        return damaged(digests, "it has a file twice", err);
    digests->files[number] = *file;
    return true;
}

static bool
take_file(Scan *scan, PageDigests *digests, uint32_t path_len, Error *err)
{
    char path[PATH_LIMIT + 1];
    PageDigestFile file;
    uint64_t pages;

    if (path_len > PATH_LIMIT)
        return damaged(digests, "a path is too long", err);
    if (!take(scan, (uint8_t *)path, path_len, err))
        return false;
    path[path_len] = '\0';
    if (strlen(path) != path_len || !path_is_below(path))
        return damaged(digests, "a path leads out of the backup", err);
    if (!take64(scan, &file.size, err))
        return false;
    file.offset = scan->size - scan->left;
    pages = pages_of(file.size, digests->page_size);
    if (pages > scan->left / 4)
        return damaged(digests, "it ends within a file's pages", err);
    return add_file(digests, path, path_len, &file, err) && take(scan, NULL, 4 * pages, err);
}

static bool
take_files(Scan *scan, PageDigests *digests, Error *err)
{
    uint32_t path_len;

    for (;;) {
        if (!take32(scan, &path_len, err))
            return false;
        if (path_len == 0)
            return true;
        if (!take_file(scan, digests, path_len, err))
            return false;
    }
}

static bool
take_end(Scan *scan, const PageDigests *digests, Error *err)
{
    uint64_t count;
    uint32_t crc;
    uint32_t stated;

    if (!take64(scan, &count, err))
        return false;
    crc = scan->crc;
    if (!take32(scan, &stated, err))
        return false;
    if (scan->left != 0)
        return damaged(digests, "there are bytes behind its end", err);
    if (count != path_index_count(digests->paths))
        return damaged(digests, "it has another number of files than it says", err);
    return crc == stated || damaged(digests, "its checksum is wrong", err);
}

static bool
scan_all(PageDigests *digests, uint64_t size, Error *err)
{
    Scan *scan = mem_alloc(sizeof *scan, err);
    bool ok;

    if (scan == NULL)
        return false;
    scan->digests = digests;
    scan->size = size;
    scan->left = size;
    scan->crc = 0;
    scan->at = 0;
    scan->len = 0;
    ok = take_head(scan, digests, err) && take_files(scan, digests, err) &&
         take_end(scan, digests, err);
    free(scan);
    return ok;
}

static bool
open_file(PageDigests *digests, const char *path, uint64_t *ret_size, Error *err)
{
    struct stat st;

    digests->path = mem_strdup(path, err);
    if (digests->path == NULL)
        return false;
    digests->fd = file_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
    if (digests->fd < 0)
        return false;
    if (fstat(digests->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, ERR_FORMAT, "\"%s\" is not a regular file", path);
    *ret_size = (uint64_t)st.st_size;
    return true;
}

PageDigests *
page_digests_open(const char *path, Error *err)
{
    PageDigests *digests = mem_zero(sizeof *digests, err);
    uint64_t size;

    if (digests == NULL)
        return NULL;
    digests->fd = -1;
    if (!open_file(digests, path, &size, err) || (digests->paths = path_index_new(err)) == NULL ||
        !scan_all(digests, size, err)) {
        page_digests_close(digests);
        return NULL;
    }
    crc32c_join_init(&digests->join, digests->page_size);
    return digests;
}

void
page_digests_close(PageDigests *digests)
{
    if (digests == NULL)
        return;
    file_close_quietly(digests->fd);
    path_index_free(digests->paths);
    free(digests->files);
    free(digests->path);
    free(digests);
}

/* ---- asking ---- */

uint32_t
page_digests_page_size(const PageDigests *digests)
{
    return digests->page_size;
}

size_t
page_digests_count(const PageDigests *digests)
{
    return path_index_count(digests->paths);
}

bool
page_digests_find(const PageDigests *digests, const char *path, PageDigestFile *ret_file)
{
    uint32_t number;

    if (!path_index_find(digests->paths, path, &number))
        return false;
    *ret_file = digests->files[number];
    return true;
}

static bool
read_at(const PageDigests *digests, uint64_t offset, uint8_t *to, size_t len, Error *err)
{
    while (len > 0) {
        ssize_t got = pread(digests->fd, to, len, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_errno(err, errno, "could not read file \"%s\"", digests->path);
        if (got == 0) /* it was longer when it was opened */
            return ends_early(digests, err);
        to += got;
        offset += (uint64_t)got;
        len -= (size_t)got;
    }
    return true;
}

bool
page_digests_read(const PageDigests *digests, const PageDigestFile *file, uint64_t first,
                  uint32_t *crcs, size_t count, Error *err)
{
    uint8_t *bytes = (uint8_t *)crcs;

    if (!read_at(digests, file->offset + 4 * first, bytes, 4 * count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        crcs[i] = get_le32(bytes + 4 * i);
    return true;
}

bool
page_digests_file_crc(const PageDigests *digests, const PageDigestFile *file, uint32_t *ret_crc,
                      Error *err)
{
    uint64_t whole = file->size / digests->page_size;
    uint32_t rest = (uint32_t)(file->size % digests->page_size);
    uint32_t crcs[CRC_BATCH];
    uint32_t crc = 0;
    size_t count;

    for (uint64_t page = 0; page < whole; page += count) {
        count = whole - page < CRC_BATCH ? (size_t)(whole - page) : CRC_BATCH;
        if (!page_digests_read(digests, file, page, crcs, count, err))
            return false;
        for (size_t i = 0; i < count; i++)
            crc = crc32c_join(&digests->join, crc, crcs[i]);
    }
    if (rest != 0) {
        if (!page_digests_read(digests, file, whole, crcs, 1, err))
            return false;
        crc = crc32c_combine(crc, crcs[0], rest);
    }
    *ret_crc = crc;
    return true;
}
