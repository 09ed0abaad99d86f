/*
 * A base backup that went to standard output has its manifest as the last member of base.tar. It is
 * needed before anything else can be checked, so the archive is read twice. Of one that is not
 * compressed only the headers are, up to there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/compression.h"
#include "stream/stage.h"
#include "stream/tar.h"
#include "verify/internal.h"

#define MEMBER    "backup_manifest"
#define READ_SIZE ((size_t)64 * 1024)

typedef struct ManifestSearch {
    const VerifyConfig *config;
    const char *archive;
    int fd;
    ManifestReader *reader;
    bool found; /* and read whole */
} ManifestSearch;

/* ---- in a compressed archive ---- */

typedef struct ManifestStage {
    Sink sink;
    ManifestSearch *search;
    bool in_manifest;
} ManifestStage;

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    ManifestStage *stage = (ManifestStage *)self;

    (void)err;
    stage->in_manifest =
        !stage->search->found && entry->kind == ENTRY_FILE && strcmp(entry->path, MEMBER) == 0;
    return true;
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    const ManifestStage *stage = (const ManifestStage *)self;

    return !stage->in_manifest || manifest_reader_feed(stage->search->reader, data, err);
}

static bool
end_entry(Sink *self, Error *err)
{
    const ManifestStage *stage = (const ManifestStage *)self;

    (void)err;
    if (stage->in_manifest)
        stage->search->found = true;
    return true;
}

static const WatchOps manifest_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
    .entry_end = end_entry,
};

static bool
manifest_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &manifest_watch, event, err);
}

static const SinkOps manifest_ops = {.name = "archive_manifest", .push = manifest_push};

static Sink *
chain_new(ManifestSearch *search, Error *err)
{
    ManifestStage *stage = sink_alloc(sizeof *stage, &manifest_ops, discard_new(err), err);

    if (stage == NULL)
        return NULL;
    stage->search = search;
    return tar_reader_new(&stage->sink, TAR_END_REQUIRED, err);
}

static ReadNext
go_on(void *ctx, size_t bytes, Error *err)
{
    const ManifestSearch *search = ctx;

    (void)bytes;
    if (search->found)
        return READ_ENOUGH;
    return stop_check(search->config->stop, err) ? READ_GO_ON : READ_FAILED;
}

static bool
search_stream(ManifestSearch *search, Error *err)
{
    const ArchiveSource source = {.fd = search->fd,
                                  .name = search->archive,
                                  .threaded = archives_threaded(search->config),
                                  .passed = go_on,
                                  .ctx = search};

    return archive_read(&source, chain_new(search, err), err);
}

/* ---- in one that is not compressed ---- */

static bool
seek_to(const ManifestSearch *search, uint64_t offset, Error *err)
{
    return lseek(search->fd, (off_t)offset, SEEK_SET) >= 0 ||
           error_set_errno(err, errno, "could not seek in file \"%s\"", search->archive);
}

static bool
read_member(ManifestSearch *search, uint64_t size, Error *err)
{
    uint8_t *buffer = mem_alloc(READ_SIZE, err);
    bool ok = buffer != NULL;

    while (ok && size > 0) {
        size_t want = size < READ_SIZE ? (size_t)size : READ_SIZE;
        size_t got;

        ok = file_read(search->fd, buffer, want, search->archive, &got, err) &&
             manifest_reader_feed(search->reader, (Span){.data = buffer, .len = got}, err);
        if (ok && got < want)
            ok = error_set(err, ERR_FORMAT, "archive \"%s\" ends within member \"%s\"",
                           search->archive, MEMBER);
        size -= ok ? got : 0;
    }
    free(buffer);
    search->found = ok;
    return ok;
}

/* The header at `offset`; *ret_end where there is none any more. */
static bool
read_header(const ManifestSearch *search, uint64_t offset, TarHeader *header, bool *ret_end,
            Error *err)
{
    uint8_t block[TAR_BLOCK];
    size_t got;

    if (!seek_to(search, offset, err) ||
        !file_read(search->fd, block, sizeof block, search->archive, &got, err))
        return false;
    *ret_end = got < sizeof block || tar_is_zero(block);
    if (*ret_end || tar_parse(block, header, err))
        return true;
    return error_context(err, "archive \"%s\", at offset %llu", search->archive,
                         (unsigned long long)offset);
}

static bool
search_headers(ManifestSearch *search, Error *err)
{
    uint64_t offset = 0;

    while (offset <= TAR_SIZE_MAX) {
        TarHeader header;
        bool end;

        if (!stop_check(search->config->stop, err) ||
            !read_header(search, offset, &header, &end, err))
            return false;
        if (end)
            break;
        path_canonicalize(header.name);
        if (header.kind == ENTRY_FILE && strcmp(header.name, MEMBER) == 0)
            return read_member(search, header.size, err);
        offset += TAR_BLOCK + header.size + tar_padding(header.size);
    }
    return true;
}

/* ---- the archive ---- */

static bool
search_archive(ManifestSearch *search, Manifest **ret_manifest, Error *err)
{
    bool compressed = compression_of_name(search->archive) != COMPRESSION_NONE;
    Error failure = ERROR_INIT;

    if (!(compressed ? search_stream(search, &failure) : search_headers(search, &failure)) ||
        (search->found && !manifest_reader_finish(search->reader, ret_manifest, &failure))) {
        *err = failure;
        return error_context(err, "could not read \"%s\" in archive \"%s\"", MEMBER,
                             search->archive);
    }
    return search->found || error_hint(err,
                                       "Archive \"%s\" does not hold it either: only a backup "
                                       "that went to standard output has it there.",
                                       search->archive);
}

/* -1 when it cannot be had; with the reason, unless there is none of this name. */
static int
open_archive(const char *directory, const char *name, Error *err)
{
    char *path = path_join(directory, name, err);
    int fd = -1;

    if (path == NULL)
        return -1;
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        (void)error_set_errno(err, errno, "could not open file \"%s\"", path);
    free(path);
    return fd;
}

static bool
open_base(ManifestSearch *search, Error *err)
{
    static const char *const names[] = {"base.tar", "base.tgz", "base.tar.gz", "base.tar.lz4",
                                        "base.tar.zst"};

    for (size_t i = 0; i < sizeof names / sizeof names[0] && search->fd < 0; i++) {
        Error failure = ERROR_INIT;

        search->archive = names[i];
        search->fd = open_archive(search->config->directory, names[i], &failure);
        if (failure.code != ERR_NONE) {
            *err = failure;
            return false;
        }
    }
    return search->fd >= 0;
}

bool
archives_load_manifest(const VerifyConfig *config, Manifest **ret_manifest, Error *err)
{
    ManifestSearch search = {.config = config, .fd = -1};
    bool ok = open_base(&search, err);

    if (ok) {
        search.reader = manifest_reader_new(err);
        ok = search.reader != NULL && search_archive(&search, ret_manifest, err);
        manifest_reader_free(search.reader);
    }
    file_close_quietly(search.fd);
    return ok;
}
