/*
 * What is done for a complete segment until it has its name, without a thought of threads.
 *
 * A plain one is renamed. With compression it is compressed into NAME.tmp.gz (.lz4, .zst), from
 * memory or read back from NAME.partial, by the stages that compress archives; NAME.partial, which
 * a FLUSH may have made meanwhile, or an earlier run, goes when NAME.gz is there.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "walrecv/internal.h"

/* How much of a segment is read at once; how often those who read look whether to go on. */
#define PIECE_SIZE ((size_t)256 * 1024)

/* Of what is not finished, before the method's suffix. */
#define TEMP_MIDDLE ".tmp"

static const char *const suffixes[] = {".gz", ".lz4", ".zst"};

/* ---- tools ---- */

static bool
compresses(const WalDirConfig *config)
{
    return config->compression.method != COMPRESSION_NONE;
}

static Sink *
compressing_sink(const WalDirConfig *config, Error *err)
{
    const FileSinkConfig file = {
        .directory = config->directory,
        .file_mode = config->file_mode,
        .sync = config->sync == WAL_DURABLE ? SYNC_FSYNC : SYNC_NONE,
    };

    return compress_new(file_sink_new(&file, err), &config->compression, err);
}

bool
segment_tools_init(SegmentTools *tools, const WalDirConfig *config, const atomic_bool *ending,
                   Error *err)
{
    *tools = (SegmentTools){.config = config, .ending = ending};
    tools->buffer = mem_alloc(PIECE_SIZE, err);
    if (tools->buffer == NULL)
        return false;
    if (compresses(config))
        tools->compress = compressing_sink(config, err);
    return tools->compress != NULL || !compresses(config);
}

void
segment_tools_free(SegmentTools *tools)
{
    sink_free(tools->compress);
    free(tools->buffer);
    *tools = (SegmentTools){.config = NULL};
}

/* ---- names ---- */

/* "DIR/NAME" with two suffixes, as an owned string. */
static char *
path_of(const WalDirConfig *config, const char *name, const char *middle, const char *suffix,
        Error *err)
{
    char file[WAL_NAME_SIZE + 32];

    (void)snprintf(file, sizeof file, "%s%s%s", name, middle, suffix);
    return path_join(config->directory, file, err);
}

static const char *
own_suffix(const WalDirConfig *config)
{
    return compression_suffix(config->compression.method);
}

static bool
remove_file(const char *path, Error *err)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return error_set_errno(err, errno, "could not remove file \"%s\"", path);
    return true;
}

static bool
remove_form(const WalDirConfig *config, const char *name, const char *middle, const char *suffix,
            Error *err)
{
    char *path = path_of(config, name, middle, suffix, err);
    bool ok = path != NULL && remove_file(path, err);

    free(path);
    return ok;
}

/* ---- sync ---- */

/* Of a segment that is in memory only. */
static bool
make_file(CompleteSegment *segment, const WalDirConfig *config, Error *err)
{
    const Span bytes = {.data = segment->bytes, .len = config->segment_size};

    return segment_file_open(config, segment->name, &segment->file, err) &&
           segment_file_fill(&segment->file, bytes, err) && segment_file_trim(&segment->file, err);
}

bool
segment_job_sync(SegmentJob *job, const WalDirConfig *config, Error *err)
{
    CompleteSegment *segment = &job->segment;

    if (segment->file.fd < 0 && !make_file(segment, config, err))
        return false;
    return segment_file_sync(&segment->file, err);
}

/* ---- prepare ---- */

/* All of the segment into the sink. */
static bool
copy_segment(const SegmentTools *tools, SegmentBytes *bytes, Error *err)
{
    while (bytes->at < bytes->size) {
        size_t left = bytes->size - bytes->at;
        size_t len = left < PIECE_SIZE ? left : PIECE_SIZE;
        Span piece;

        if (atomic_load(tools->ending))
            return error_set_stopped(err);
        if (!segment_bytes_next(bytes, len, &piece, err))
            return false;
        if (piece.len < len)
            return error_set(err, ERR_FORMAT, "file \"%s\" has become shorter than %zu bytes",
                             bytes->segment->file.path, bytes->size);
        if (!sink_data(tools->compress, piece, err))
            return false;
    }
    return true;
}

static bool
compress_into(const SegmentTools *tools, const CompleteSegment *segment, const char *archive_name,
              Error *err)
{
    const Archive archive = {.name = archive_name};
    SegmentBytes bytes = {
        .segment = segment, .size = tools->config->segment_size, .buffer = tools->buffer};

    return segment_bytes_rewind(&bytes, err) &&
           sink_archive_begin(tools->compress, &archive, err) && copy_segment(tools, &bytes, err) &&
           sink_archive_end(tools->compress, err);
}

/* What an earlier run has left of it goes first. */
static bool
compress_job(SegmentJob *job, const SegmentTools *tools, Error *err)
{
    const char *name = job->segment.name;
    char archive[WAL_NAME_SIZE + sizeof TEMP_MIDDLE];

    (void)snprintf(archive, sizeof archive, "%s%s", name, TEMP_MIDDLE);
    job->temp = path_of(tools->config, archive, "", own_suffix(tools->config), err);
    return job->temp != NULL && remove_file(job->temp, err) &&
           compress_into(tools, &job->segment, archive, err);
}

bool
segment_job_prepare(SegmentJob *job, const SegmentTools *tools, Error *err)
{
    const ConflictCheck check = {
        .config = tools->config,
        .segment = &job->segment,
        .ending = tools->ending,
        .buffer = tools->buffer,
        .buffer_size = PIECE_SIZE,
    };

    if (!conflict_resolve(&check, &job->exists, err))
        return false;
    return job->exists || !compresses(tools->config) || compress_job(job, tools, err);
}

/* ---- publish ---- */

bool
segment_job_name(SegmentJob *job, const WalDirConfig *config, Error *err)
{
    SegmentFile *file = &job->segment.file;
    char *path;
    bool ok;

    /* One that is compressed does not last: it may be synced until it is gone, and nobody wants to
     * know how its close ends. */
    if (!compresses(config) && !segment_file_close(file, err))
        return false;
    if (job->exists)
        return true;
    path = path_of(config, job->segment.name, "", own_suffix(config), err);
    ok = path != NULL && file_rename(job->temp == NULL ? file->path : job->temp, path, err);
    free(path);
    if (ok) {
        free(job->temp);
        job->temp = NULL;
    }
    return ok;
}

/* What is left of a complete segment under other names: another program's; those of a run that was
 * killed. */
static bool
remove_forms(const WalDirConfig *config, const char *name, Error *err)
{
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        if (!remove_form(config, name, suffixes[i], ".partial", err) ||
            !remove_form(config, name, TEMP_MIDDLE, suffixes[i], err))
            return false;
    }
    return true;
}

/* The durable mark last: it is not ahead of what was written. */
static void
advance_marks(const WalDirConfig *config, Lsn end)
{
    if (end == 0)
        return;
    if (config->written != NULL)
        durable_mark_advance(config->written, end);
    if (config->sync == WAL_DURABLE && config->durable != NULL)
        durable_mark_advance(config->durable, end);
}

/* One that was filled up is not what anybody waits for. */
static void
tell_finished(const SegmentJob *job, const WalDirConfig *config)
{
    TimeLineID timeline;
    uint64_t number;

    if (config->finished != NULL && job->segment.done &&
        wal_segment_parse(job->segment.name, config->segment_size, &timeline, &number))
        config->finished(config->ctx, job->segment.end, timeline);
}

bool
segment_job_conclude(const SegmentJob *job, const WalDirConfig *config, Error *err)
{
    advance_marks(config, job->segment.end);
    if (job->segment.done && !archive_status_done(config, job->segment.name, err))
        return false;
    /* Our own file, if there is one, unless it is the segment itself now. */
    if ((job->exists || compresses(config)) &&
        !remove_form(config, job->segment.name, "", ".partial", err))
        return false;
    if (!remove_forms(config, job->segment.name, err))
        return false;
    tell_finished(job, config);
    return true;
}

void
segment_job_free(SegmentJob *job)
{
    segment_file_free(&job->segment.file);
    if (job->temp != NULL)
        (void)unlink(job->temp);
    free(job->temp);
    job->temp = NULL;
}

/* ---- what a run that was killed has left ---- */

/* A complete form of the segment that is what it should be. */
static bool
has_sound_form(const WalDirConfig *config, const char *name, bool *ret_sound, Error *err)
{
    const SegmentPlace place = {.directory = config->directory,
                                .segment_size = config->segment_size};
    WalSegmentFile file;

    *ret_sound = false;
    if (!wal_segment_file_parse(name, config->segment_size, &file))
        return true;
    for (int method = COMPRESSION_NONE; method <= COMPRESSION_ZSTD && !*ret_sound; method++) {
        Error odd = ERROR_INIT;

        file.compression = (CompressionMethod)method;
        *ret_sound = segment_check_complete(&place, &file, &odd);
        if (!*ret_sound && !segment_is_odd(&odd)) {
            *err = odd;
            return false;
        }
    }
    return true;
}

bool
segment_tidy(const WalDirConfig *config, const char *name, Error *err)
{
    bool left;
    bool sound;

    if (!segment_file_exists(config, name, &left, err) ||
        (left && !has_sound_form(config, name, &sound, err)))
        return false;
    return !left || !sound || remove_form(config, name, "", ".partial", err);
}
