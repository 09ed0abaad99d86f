/*
 * A file out of an archive for recovery, as restore_command asks for it (PostgreSQL:
 * access/transam/xlogarchive.c).
 *
 * Nothing is synced: recovery reads the file back at once, and the server itself syncs what it
 * keeps before it gives it the name of a segment (durable_rename in KeepFileRestoredFromArchive).
 * After a crash it asks again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/file.h"
#include "common/runtime.h"
#include "pgformat/control.h"

#define TEMP_SUFFIX ".pgstow.tmp"

/* The server writes pg_control while it waits for us: one that looks torn is read again. */
#define CONTROL_TRIES   20
#define CONTROL_WAIT_MS 10

typedef struct Fetch {
    const ArchiveFetch *request;
    WalName name;
    char *parent; /* the directory that `path` is in */
    uint64_t system_id;
} Fetch;

/* ---- the cluster that asks ---- */

static const char *
last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static bool
load_control(const char *path, ControlData *control, Error *err)
{
    Buf content = BUF_INIT;
    bool ok = file_load(path, (uint64_t)CONTROL_FILE_SIZE * 8, &content, err) &&
              control_parse((Span){.data = content.data, .len = content.len}, control, err);

    buf_free(&content);
    return ok;
}

static bool
read_control(const char *path, ControlData *control, Error *err)
{
    for (int i = 1;; i++) {
        Error failure = ERROR_INIT;

        if (load_control(path, control, &failure))
            return true;
        if (failure.code != ERR_FORMAT || i == CONTROL_TRIES) {
            *err = failure;
            return failure.code == ERR_FORMAT ? error_context(err, "file \"%s\"", path) : false;
        }
        if (runtime_wait(-1, 0, CONTROL_WAIT_MS, NULL, NULL, err) == WAIT_FAILED)
            return false;
    }
}

/* A pg_wal has its cluster beside it, as its path is written: it may be a link to elsewhere. */
static bool
find_cluster(Fetch *fetch, Error *err)
{
    Buf path = BUF_INIT;
    ControlData control = {.system_id = 0};
    bool ok = true;

    if (strcmp(last_part(fetch->parent), "pg_wal") != 0)
        return true;
    if (!buf_printf(&path, err, "%.*sglobal/pg_control",
                    (int)(last_part(fetch->parent) - fetch->parent), fetch->parent))
        ok = false;
    else if (access(buf_text(&path), F_OK) == 0)
        ok = read_control(buf_text(&path), &control, err);
    if (ok)
        fetch->system_id = control.system_id;
    buf_free(&path);
    return ok;
}

/* ---- writing ---- */

static char *
temp_path(const char *path, Error *err)
{
    Buf temp = BUF_INIT;

    if (!buf_printf(&temp, err, "%s" TEMP_SUFFIX, path))
        buf_free(&temp);
    return (char *)temp.data;
}

/* As cp would make it: the server has a umask that says who may read its files. */
static mode_t
file_mode(void)
{
    mode_t mask = umask(0077);

    (void)umask(mask);
    return 0640 & ~mask;
}

static bool
write_once(const Fetch *fetch, bool (*fill)(void *ctx, ClaimedFile *file, Error *err), void *ctx,
           Error *err)
{
    const char *path = fetch->request->path;
    ClaimedFile file;
    bool ok = claimed_file_open(&file, temp_path(path, err), file_mode(), err) &&
              fill(ctx, &file, err) && claimed_file_rename(&file, path, err);

    claimed_file_free(&file);
    return ok;
}

/* What was fetched ahead must not take the room that this needs. */
static bool
write_file(const Fetch *fetch, bool (*fill)(void *ctx, ClaimedFile *file, Error *err), void *ctx,
           Error *err)
{
    Error failure = ERROR_INIT;

    if (write_once(fetch, fill, ctx, &failure))
        return true;
    if (failure.sys_errno == ENOSPC && fetch->request->spool != NULL) {
        archive_spool_remove(fetch->request->spool);
        return write_once(fetch, fill, ctx, err);
    }
    *err = failure;
    return false;
}

/* ---- a complete segment ---- */

static bool
fill_segment(void *ctx, ClaimedFile *file, Error *err)
{
    return segment_copy(ctx, file, err);
}

static bool
fetch_form(const Fetch *fetch, const ArchiveForm *form, Error *err)
{
    const ArchiveFetch *request = fetch->request;
    char name[SPOOL_NAME_SIZE];
    SegmentCopy copy = {.directory = request->directory,
                        .name = &fetch->name,
                        .form = form,
                        .system_id = fetch->system_id};
    bool taken = false;

    if (request->spool != NULL && spool_name(name, &fetch->name, form, fetch->system_id) &&
        !spool_take(request->spool, name, request->path, &taken, err))
        return false;
    return taken || write_file(fetch, fill_segment, &copy, err);
}

/* One form may make up for the damage of another. */
static bool
fetch_complete(const Fetch *fetch, const ArchiveForms *forms, ArchiveFetched *fetched, Error *err)
{
    Error first = ERROR_INIT;
    struct stat st;

    for (size_t i = 0; i < forms->count && !fetched->found; i++) {
        Error failure = ERROR_INIT;

        fetched->found = fetch_form(fetch, &forms->forms[i], &failure);
        if (first.code == ERR_NONE)
            first = failure;
        if (!fetched->found && failure.code != ERR_FORMAT) {
            *err = failure;
            return false;
        }
    }
    if (!fetched->found) {
        *err = first;
        return false;
    }
    if (first.code != ERR_NONE)
        (void)snprintf(fetched->remark, sizeof fetched->remark, "another form of it is used: %s",
                       first.message);
    if (stat(fetch->request->path, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", fetch->request->path);
    fetched->segment_size = (uint32_t)st.st_size;
    return true;
}

/* ---- one that is not complete ---- */

static bool
fill_partial(void *ctx, ClaimedFile *file, Error *err)
{
    return partial_copy(ctx, file, err);
}

/* The segment in the server's own pg_wal, unless that is what is to be written. */
static char *
local_path(const Fetch *fetch, Error *err)
{
    return path_join(fetch->parent, fetch->name.name, err);
}

static bool
take_partial(const Fetch *fetch, PartialFound *found, ArchiveFetched *fetched, Error *err)
{
    if (!write_file(fetch, fill_partial, found, err))
        return false;
    fetched->found = true;
    (void)snprintf(fetched->remark, sizeof fetched->remark,
                   "\"%s\" is not complete: its WAL ends at " LSN_FORMAT, found->form.path,
                   LSN_ARGS(found->end));
    return true;
}

static bool
fetch_partial(const Fetch *fetch, const ArchiveForms *forms, ArchiveFetched *fetched, Error *err)
{
    char *local = local_path(fetch, err);
    const PartialSearch search = {
        .directory = fetch->request->directory,
        .name = &fetch->name,
        .by_name = fetch->name.kind == WAL_NAME_PARTIAL,
        .local = strcmp(last_part(fetch->request->path), fetch->name.name) == 0 ? NULL : local,
        .system_id = fetch->system_id,
    };
    PartialFound found;
    bool ok = local != NULL && partial_choose(&search, forms, &found, err);

    if (ok && found.found)
        ok = take_partial(fetch, &found, fetched, err);
    else if (ok && found.remark[0] != '\0')
        (void)snprintf(fetched->remark, sizeof fetched->remark, "\"%s\" is not used: %s",
                       found.form.path, found.remark);
    free(local);
    return ok;
}

static bool
fetch_any_partial(const Fetch *fetch, ArchiveFetched *fetched, Error *err)
{
    ArchiveForms forms;
    bool ok = archive_forms_find_partial(&forms, fetch->request->directory, &fetch->name, err) &&
              (forms.count == 0 || fetch_partial(fetch, &forms, fetched, err));

    archive_forms_free(&forms);
    return ok;
}

static bool
fetch_segment(const Fetch *fetch, ArchiveFetched *fetched, Error *err)
{
    ArchiveForms forms;
    bool ok = archive_forms_find(&forms, fetch->request->directory, &fetch->name, err);

    if (ok && forms.count > 0)
        ok = fetch_complete(fetch, &forms, fetched, err);
    else if (ok)
        ok = fetch_any_partial(fetch, fetched, err);
    archive_forms_free(&forms);
    return ok;
}

/* By its own name, which no server does: as it is, whatever else there is. */
static bool
fetch_named_partial(const Fetch *fetch, ArchiveFetched *fetched, Error *err)
{
    char segment[WAL_SEGMENT_FILE_SIZE];
    WalSegmentFile complete = fetch->name.segment;
    Fetch of_segment = *fetch;

    complete.partial = false;
    wal_segment_file_name(segment, &complete, WAL_SEGMENT_SIZE_MIN);
    of_segment.name.name = segment;
    return fetch_any_partial(&of_segment, fetched, err);
}

/* ---- other files ---- */

static bool
check_content(const Fetch *fetch, Span content, Error *err)
{
    TimelineHistory history;

    if (fetch->name.kind != WAL_NAME_HISTORY)
        return true;
    if (!timeline_history_parse(content, fetch->name.timeline, &history, err))
        return false;
    timeline_history_free(&history);
    return true;
}

static bool
fill_content(void *ctx, ClaimedFile *file, Error *err)
{
    const Buf *content = ctx;

    return file_write(file->fd, content->data, content->len, file->path, err);
}

static bool
fetch_content(const Fetch *fetch, const ArchiveForm *form, Error *err)
{
    Buf content = BUF_INIT;
    bool ok =
        archive_file_load(form->path, form->compression, ARCHIVE_HISTORY_MAX, &content, err) &&
        check_content(fetch, (Span){.data = content.data, .len = content.len}, err);

    if (!ok && err->code == ERR_FORMAT)
        (void)error_context(err, "\"%s\" is damaged", form->path);
    ok = ok && write_file(fetch, fill_content, &content, err);
    buf_free(&content);
    return ok;
}

/* History files and backup history files. */
static bool
fetch_other(const Fetch *fetch, ArchiveFetched *fetched, Error *err)
{
    ArchiveForms forms;
    bool ok = archive_forms_find(&forms, fetch->request->directory, &fetch->name, err);

    if (ok && forms.count > 0) {
        ok = fetch_content(fetch, &forms.forms[0], err);
        fetched->found = ok;
    }
    archive_forms_free(&forms);
    return ok;
}

/* ---- nothing ---- */

/* A file that is not there is the end of the archive, and of recovery. An archive that is not
 * there, because its file system is not mounted, must not look the same. */
static bool
check_archive(const char *directory, Error *err)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    int errnum;

    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", directory);
    do {
        entry = dir_next(dir);
    } while (entry != NULL && strcmp(entry->d_name, "lost+found") == 0);
    errnum = errno;
    (void)closedir(dir);
    if (entry != NULL)
        return true;
    if (errnum != 0)
        return error_set_errno(err, errnum, "could not read directory \"%s\"", directory);
    (void)error_set(err, ERR_FORMAT, "directory \"%s\" is empty: is it an archive?", directory);
    return error_hint(err, "Is its file system mounted? If it is meant to be empty, put any file "
                           "into it.");
}

/* ---- */

static bool
fetch_it(Fetch *fetch, ArchiveFetched *fetched, Error *err)
{
    if (!find_cluster(fetch, err))
        return false;
    fetched->system_id = fetch->system_id;
    if (fetch->name.kind == WAL_NAME_SEGMENT)
        return fetch_segment(fetch, fetched, err);
    if (fetch->name.kind == WAL_NAME_PARTIAL)
        return fetch_named_partial(fetch, fetched, err);
    return fetch_other(fetch, fetched, err);
}

bool
archive_fetch(const ArchiveFetch *request, ArchiveFetched *ret_fetched, Error *err)
{
    Fetch fetch = {.request = request};
    ArchiveFetched fetched = {.found = false};
    bool ok;

    if (!wal_name_parse(request->name, &fetch.name))
        return wal_name_refuse(request->name, err);
    fetch.parent = path_parent(request->path, err);
    ok = fetch.parent != NULL && fetch_it(&fetch, &fetched, err) &&
         (fetched.found || check_archive(request->directory, err));
    free(fetch.parent);
    if (ok)
        *ret_fetched = fetched;
    return ok;
}
