/*
 * Notes of what is in an archive already although its server has not asked for that yet.
 *
 *   SPOOL/CLUSTER-NAME       a note about the file NAME, locked by whoever is pushing it
 *   SPOOL/CLUSTER-lock       held by the process that pushes ahead
 *
 * A note describes the server's file, content included, and what lies in the archive for it. It
 * counts only as long as it would be written again word for word, so nothing becomes true by a
 * note: lost, stale or half written ones cost another push, which finds the same content. For the
 * same reason none is synced. CLUSTER is made of the paths of pg_wal and archive, to keep apart
 * those who share a spool; that it is unique does not matter, because notes tell the paths too.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/crc32c.h"
#include "common/file.h"

#define PIECE_SIZE ((size_t)128 * 1024)
#define NOTE_MAX   ((uint64_t)64 * 1024)

/* ---- the spool ---- */

/* What others may write to must not say what is archived. */
static bool
check_owner(const char *path, Error *err)
{
    struct stat st;

    if (lstat(path, &st) != 0)
        return error_set_errno(err, errno, "could not stat directory \"%s\"", path);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, ERR_FORMAT, "\"%s\" is not a directory", path);
    if (st.st_uid == geteuid() && (st.st_mode & 022) == 0)
        return true;
    (void)error_set(err, ERR_FORMAT, "others may write to directory \"%s\"", path);
    return error_hint(err, "It must belong to the user who archives, and nobody else may write.");
}

static char *
real_path(const char *path, Error *err)
{
    char *real = realpath(path, NULL);

    if (real == NULL)
        (void)error_set_errno(err, errno, "could not resolve path \"%s\"", path);
    return real;
}

static bool
find_paths(PushSpool *spool, const ArchivePush *push, Error *err)
{
    char *parent = path_parent(push->path, err);

    if (parent != NULL)
        spool->wal = real_path(parent, err);
    free(parent);
    if (spool->wal != NULL)
        spool->archive = real_path(push->directory, err);
    return spool->archive != NULL;
}

bool
push_spool_open(PushSpool *spool, const ArchiveAhead *ahead, Error *err)
{
    uint32_t crc;

    *spool = (PushSpool){.ahead = ahead};
    if (!find_paths(spool, ahead->push, err))
        return false;
    if (mkdir(ahead->spool, 0700) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "could not create directory \"%s\"", ahead->spool);
    if (!check_owner(ahead->spool, err))
        return false;
    crc = crc32c(0, spool->wal, strlen(spool->wal) + 1);
    crc = crc32c(crc, spool->archive, strlen(spool->archive));
    (void)snprintf(spool->cluster, sizeof spool->cluster, "%08x-", crc);
    return true;
}

void
push_spool_free(PushSpool *spool)
{
    free(spool->wal);
    free(spool->archive);
    *spool = (PushSpool){.wal = NULL};
}

char *
push_spool_path(const PushSpool *spool, const char *name, Error *err)
{
    Buf path = BUF_INIT;

    if (!buf_printf(&path, err, "%s/%s%s", spool->ahead->spool, spool->cluster, name))
        buf_free(&path);
    return (char *)path.data;
}

/* ---- what a note says ---- */

static bool
describe_status(Buf *text, const char *what, const struct stat *st, Error *err)
{
    return buf_printf(text, err, "%s %llx %llx %llu %lld.%09ld %lld.%09ld\n", what,
                      (unsigned long long)st->st_dev, (unsigned long long)st->st_ino,
                      (unsigned long long)st->st_size, (long long)st->st_mtim.tv_sec,
                      st->st_mtim.tv_nsec, (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
}

static bool
describe_content(Buf *text, int fd, const char *path, Error *err)
{
    uint8_t *piece = mem_alloc(PIECE_SIZE, err);
    uint32_t crc = 0;
    size_t got = PIECE_SIZE;
    bool ok = piece != NULL;

    while (ok && got > 0) {
        ok = file_read(fd, piece, PIECE_SIZE, path, &got, err);
        if (ok)
            crc = crc32c(crc, piece, got);
    }
    free(piece);
    return ok && buf_printf(text, err, "crc32c %08x\n", crc);
}

/* The server's file. Its status comes first, which alone is enough to see that a note is stale. */
static bool
describe_source(Buf *text, const char *path, bool content, Error *err)
{
    int fd = file_open(path, O_RDONLY | O_NONBLOCK, 0, err);
    struct stat st;
    bool ok = fd >= 0;

    if (ok && fstat(fd, &st) != 0)
        ok = error_set_errno(err, errno, "could not stat file \"%s\"", path);
    if (ok && !S_ISREG(st.st_mode))
        ok = error_set(err, ERR_FORMAT, "\"%s\" is not a regular file", path);
    ok = ok && describe_status(text, "file", &st, err) &&
         (!content || describe_content(text, fd, path, err));
    file_close_quietly(fd);
    return ok;
}

static bool
describe_forms(Buf *text, const ArchiveForms *forms, Error *err)
{
    for (size_t i = 0; i < forms->count; i++) {
        if (!describe_status(text, forms->forms[i].path, &forms->forms[i].status, err))
            return false;
    }
    return true;
}

/* The archive's files and the directory that they are in: another one may be mounted there. */
static bool
describe_archive(Buf *text, const PushSpool *spool, const WalName *name, Error *err)
{
    ArchiveForms forms = {.count = 0};
    struct stat st;
    bool ok;

    if (stat(spool->archive, &st) != 0)
        return error_set_errno(err, errno, "could not stat directory \"%s\"", spool->archive);
    ok = buf_printf(text, err, "from %s\nto %s %llx %llx\n", spool->wal, spool->archive,
                    (unsigned long long)st.st_dev, (unsigned long long)st.st_ino) &&
         archive_forms_find(&forms, spool->archive, name, err);
    if (ok && forms.count == 0)
        ok = error_set(err, ERR_FORMAT, "\"%s\" does not have \"%s\"", spool->archive, name->name);
    ok = ok && describe_forms(text, &forms, err);
    archive_forms_free(&forms);
    return ok;
}

static char *
source_path(const PushSpool *spool, const PushNote *note, Error *err)
{
    return path_join(spool->wal, note->name.name, err);
}

static bool
describe(Buf *text, const PushSpool *spool, const PushNote *note, Error *err)
{
    char *path = source_path(spool, note, err);
    bool ok = path != NULL && describe_source(text, path, true, err) &&
              describe_archive(text, spool, &note->name, err);

    free(path);
    return ok;
}

/* ---- its file ---- */

/* Who waits for the lock may get that of a file that was removed meanwhile. */
static bool
open_once(PushNote *note, int operation, bool *ret_has_name, Error *err)
{
    struct stat st;

    note->fd = file_open(note->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600, err);
    if (note->fd < 0)
        return false;
    while (flock(note->fd, operation) != 0) {
        if (errno != EINTR)
            return error_set_errno(err, errno, "could not lock file \"%s\"", note->path);
    }
    if (fstat(note->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", note->path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, ERR_FORMAT, "\"%s\" is not a regular file", note->path);
    *ret_has_name = st.st_nlink > 0;
    return true;
}

bool
push_note_open(PushNote *note, const PushSpool *spool, const WalName *name, bool wait, Error *err)
{
    bool has_name = false;

    *note = (PushNote){.fd = -1, .name = *name, .path = push_spool_path(spool, name->name, err)};
    while (note->path != NULL && !has_name) {
        file_close_quietly(note->fd);
        note->fd = -1;
        if (!open_once(note, wait ? LOCK_EX : LOCK_EX | LOCK_NB, &has_name, err)) {
            /* Nobody takes it for ours. */
            file_close_quietly(note->fd);
            note->fd = -1;
            return false;
        }
    }
    return has_name;
}

void
push_note_free(PushNote *note)
{
    file_close_quietly(note->fd);
    free(note->path);
    *note = (PushNote){.fd = -1};
}

void
push_note_remove(const PushNote *note)
{
    if (note->fd >= 0)
        (void)unlink(note->path);
}

static bool
load(const PushNote *note, Buf *content, Error *err)
{
    return file_load(note->path, NOTE_MAX, content, err) && buf_append(content, "", 1, err);
}

bool
push_note_is_fresh(const PushSpool *spool, const PushNote *note, bool *ret_fresh, Error *err)
{
    char *path = source_path(spool, note, err);
    Buf now = BUF_INIT;
    Buf then = BUF_INIT;
    bool ok = path != NULL && describe_source(&now, path, false, err) && load(note, &then, err);

    if (ok)
        *ret_fresh = then.len > now.len && memcmp(then.data, now.data, now.len) == 0;
    buf_free(&then);
    buf_free(&now);
    free(path);
    return ok;
}

bool
push_note_holds(const PushSpool *spool, const PushNote *note)
{
    Error ignored = ERROR_INIT; /* then it is pushed, and what is wrong told */
    Buf now = BUF_INIT;
    Buf then = BUF_INIT;
    bool holds = load(note, &then, &ignored) && then.len > 1 &&
                 describe(&now, spool, note, &ignored) && buf_append(&now, "", 1, &ignored) &&
                 now.len == then.len && memcmp(now.data, then.data, now.len) == 0;

    buf_free(&then);
    buf_free(&now);
    return holds;
}

static bool
write_text(const PushNote *note, const Buf *text, Error *err)
{
    if (ftruncate(note->fd, 0) != 0)
        return error_set_errno(err, errno, "could not truncate file \"%s\"", note->path);
    return file_pwrite(note->fd, text->data, text->len, 0, note->path, err);
}

bool
push_note_push(const PushSpool *spool, const PushNote *note, Error *err)
{
    char *path = source_path(spool, note, err);
    ArchivePush push = *spool->ahead->push;
    ArchivePushed pushed;
    Buf before = BUF_INIT;
    Buf text = BUF_INIT;
    bool ok;

    push.path = path;
    push.directory = spool->archive;
    ok = path != NULL && describe_source(&before, path, false, err) &&
         archive_push(&push, &pushed, err) && describe(&text, spool, note, err);
    if (ok && (text.len < before.len || memcmp(text.data, before.data, before.len) != 0))
        ok = error_set(err, ERR_FORMAT, "\"%s\" has changed while it was archived", path);
    ok = ok && write_text(note, &text, err);
    buf_free(&text);
    buf_free(&before);
    free(path);
    return ok;
}
