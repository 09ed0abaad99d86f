/* Under which names a file that somebody asks for may lie in an archive. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "archive/internal.h"
#include "common/file.h"

typedef struct Spelling {
    const char *suffix;
    CompressionMethod compression;
} Spelling;

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const Spelling whole[] = {
    {"", COMPRESSION_NONE},
    {".gz", COMPRESSION_GZIP},
    {".lz4", COMPRESSION_LZ4},
    {".zst", COMPRESSION_ZSTD},
};

/* A receiver puts the method before, an archive_command that compresses what it is given behind. */
static const Spelling partial[] = {
    {".partial", COMPRESSION_NONE},     {".gz.partial", COMPRESSION_GZIP},
    {".lz4.partial", COMPRESSION_LZ4},  {".zst.partial", COMPRESSION_ZSTD},
    {".partial.gz", COMPRESSION_GZIP},  {".partial.lz4", COMPRESSION_LZ4},
    {".partial.zst", COMPRESSION_ZSTD},
};

/* ---- what a name says ---- */

static bool
is_backup_history(const char *name)
{
    ArchiveBackup backup;

    /* Its segment and offset are possible with some segment size. */
    for (uint32_t size = WAL_SEGMENT_SIZE_MIN; size <= WAL_SEGMENT_SIZE_MAX; size *= 2) {
        if (archive_backup_parse(name, size, &backup))
            return backup.compression == COMPRESSION_NONE;
    }
    return false;
}

bool
wal_name_parse(const char *name, WalName *ret_name)
{
    WalName parsed = {.name = name};
    CompressionMethod compression;
    TimeLineID timeline;

    /* With the smallest segments the most names are possible. */
    if (wal_segment_file_parse(name, WAL_SEGMENT_SIZE_MIN, &parsed.segment)) {
        if (parsed.segment.compression != COMPRESSION_NONE)
            return false;
        parsed.kind = parsed.segment.partial ? WAL_NAME_PARTIAL : WAL_NAME_SEGMENT;
    } else if (archive_history_parse(name, &timeline, &compression) &&
               compression == COMPRESSION_NONE) {
        parsed.kind = WAL_NAME_HISTORY;
        parsed.timeline = timeline;
    } else if (is_backup_history(name)) {
        parsed.kind = WAL_NAME_BACKUP;
    } else {
        return false;
    }
    *ret_name = parsed;
    return true;
}

bool
wal_name_refuse(const char *name, Error *err)
{
    return error_set(err, ERR_USAGE,
                     "\"%s\" is not the name of a WAL segment, a timeline history file or a "
                     "backup history file",
                     name);
}

/* ---- what is there ---- */

static bool
add(ArchiveForms *forms, char *path, CompressionMethod compression, Error *err)
{
    ArchiveForm *form = &forms->forms[forms->count];
    struct stat st;

    /* One that is there but leads nowhere is not the same as none. */
    if (stat(path, &st) != 0) {
        (void)error_set_errno(err, errno, "could not stat file \"%s\"", path);
        free(path);
        return false;
    }
    *form = (ArchiveForm){.path = path, .compression = compression, .status = st};
    forms->count++;
    return true;
}

static bool
look_for(ArchiveForms *forms, const char *directory, const char *name, const Spelling *spelling,
         Error *err)
{
    Buf path = BUF_INIT;
    struct stat st;

    if (!buf_printf(&path, err, "%s/%s%s", directory, name, spelling->suffix)) {
        buf_free(&path);
        return false;
    }
    if (lstat(buf_text(&path), &st) == 0)
        return add(forms, (char *)path.data, spelling->compression, err);
    if (errno != ENOENT)
        (void)error_set_errno(err, errno, "could not stat file \"%s\"", buf_text(&path));
    buf_free(&path);
    return err->code == ERR_NONE;
}

static bool
look_for_all(ArchiveForms *forms, const char *directory, const char *name,
             const Spelling *spellings, size_t count, Error *err)
{
    Error failure = ERROR_INIT;

    *forms = (ArchiveForms){.count = 0};
    for (size_t i = 0; i < count; i++) {
        if (!look_for(forms, directory, name, &spellings[i], &failure)) {
            *err = failure;
            return false;
        }
    }
    return true;
}

bool
archive_forms_find(ArchiveForms *forms, const char *directory, const WalName *name, Error *err)
{
    char segment[WAL_SEGMENT_FILE_SIZE];
    WalSegmentFile complete = name->segment;

    if (name->kind != WAL_NAME_PARTIAL)
        return look_for_all(forms, directory, name->name, whole, COUNT(whole), err);
    complete.partial = false;
    wal_segment_file_name(segment, &complete, WAL_SEGMENT_SIZE_MIN);
    return look_for_all(forms, directory, segment, partial, COUNT(partial), err);
}

bool
archive_forms_find_partial(ArchiveForms *forms, const char *directory, const WalName *segment,
                           Error *err)
{
    return look_for_all(forms, directory, segment->name, partial, COUNT(partial), err);
}

void
archive_forms_free(ArchiveForms *forms)
{
    for (size_t i = 0; i < forms->count; i++)
        free(forms->forms[i].path);
    *forms = (ArchiveForms){.count = 0};
}
