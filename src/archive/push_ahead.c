/*
 * Pushing ahead: while a server archives one file at a time, those that it will ask for next
 * (archive_status/NAME.ready in its pg_wal) are put into the archive side by side. It is told that
 * a file is archived only when it asks for that one, and what went wrong likewise.
 *
 * Whoever pushes a file, the server's own push or one ahead, holds the lock of its note meanwhile.
 * So the server's waits for one that is under way instead of getting in its way.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/file.h"
#include "common/work.h"

#define LOCK_NAME    "lock"
#define READY_SUFFIX ".ready"
#define NAME_SIZE    48 /* of the longest, "SEGMENT.OFFSET.backup", and more */

typedef struct Ready {
    char name[NAME_SIZE];
    WalName parsed; /* refers to `name` */
} Ready;

typedef struct Pushing {
    PushSpool spool;
    char *status; /* the directory where the server says what is ready */
    Ready *ready; /* in the order in which the server will ask for them */
    size_t count;
    atomic_size_t noted; /* of them */
} Pushing;

static const char *
last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* ---- the file that the server asks for ---- */

static bool
is_noted(PushNote *note, const ArchiveAhead *ahead, const WalName *name, Error *err)
{
    PushSpool spool;
    bool noted = push_spool_open(&spool, ahead, err) &&
                 push_note_open(note, &spool, name, true, err) && push_note_holds(&spool, note);

    push_spool_free(&spool);
    return noted;
}

/* A note that holds stays as long as the server may ask again. */
bool
archive_push_noted(const ArchiveAhead *ahead, ArchivePushed *ret_pushed, Error *ret_trouble,
                   Error *err)
{
    PushNote note = {.fd = -1};
    WalName name;
    bool ok = true;

    if (!wal_name_parse(last_part(ahead->push->path), &name))
        return archive_push(ahead->push, ret_pushed, err);
    if (is_noted(&note, ahead, &name, ret_trouble)) {
        *ret_pushed = ARCHIVE_WAS_NOTED;
    } else {
        ok = archive_push(ahead->push, ret_pushed, err);
        push_note_remove(&note);
    }
    push_note_free(&note);
    return ok;
}

/* ---- what is ready ---- */

/* As the server does: what tells of timelines first, then the oldest. */
static int
compare(const WalName *a, const WalName *b)
{
    bool a_first = a->kind == WAL_NAME_HISTORY;
    bool b_first = b->kind == WAL_NAME_HISTORY;

    return a_first != b_first ? (a_first ? -1 : 1) : strcmp(a->name, b->name);
}

static bool
parse_ready(Ready *ready, const char *entry)
{
    size_t len = strlen(entry);
    size_t suffix_len = strlen(READY_SUFFIX);
    size_t name_len;

    if (len <= suffix_len || strcmp(entry + len - suffix_len, READY_SUFFIX) != 0)
        return false;
    name_len = len - suffix_len;
    if (name_len >= sizeof ready->name)
        return false;
    memcpy(ready->name, entry, name_len);
    ready->name[name_len] = '\0';
    return wal_name_parse(ready->name, &ready->parsed);
}

/* There may be very many of them: only those that come first are kept. */
static void
insert(Pushing *pushing, const Ready *found)
{
    size_t most = pushing->spool.ahead->count;
    size_t at = pushing->count;

    while (at > 0 && compare(&found->parsed, &pushing->ready[at - 1].parsed) < 0)
        at--;
    if (at == most)
        return;
    if (pushing->count < most)
        pushing->count++;
    for (size_t i = pushing->count - 1; i > at; i--) {
        pushing->ready[i] = pushing->ready[i - 1];
        pushing->ready[i].parsed.name = pushing->ready[i].name;
    }
    pushing->ready[at] = *found;
    pushing->ready[at].parsed.name = pushing->ready[at].name;
}

static bool
find_ready(Pushing *pushing, Error *err)
{
    const char *asked = last_part(pushing->spool.ahead->push->path);
    DIR *dir = opendir(pushing->status);
    const struct dirent *entry;
    Ready found;
    int errnum;

    pushing->count = 0;
    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", pushing->status);
    while ((entry = dir_next(dir)) != NULL) {
        if (parse_ready(&found, entry->d_name) && strcmp(found.name, asked) != 0)
            insert(pushing, &found);
    }
    errnum = errno;
    (void)closedir(dir);
    return errnum == 0 ||
           error_set_errno(err, errnum, "could not read directory \"%s\"", pushing->status);
}

static bool
is_ready(const Pushing *pushing, const char *name, bool *ret_ready, Error *err)
{
    Buf path = BUF_INIT;
    struct stat st;
    bool ok = buf_printf(&path, err, "%s/%s" READY_SUFFIX, pushing->status, name);

    if (ok) {
        *ret_ready = lstat(buf_text(&path), &st) == 0;
        ok = *ret_ready || errno == ENOENT ||
             error_set_errno(err, errno, "could not stat file \"%s\"", buf_text(&path));
    }
    buf_free(&path);
    return ok;
}

/* ---- old notes ---- */

/* One about a file that the server has been told of will not be asked for. */
static bool
remove_old_note(const Pushing *pushing, const char *name, Error *err)
{
    PushNote note = {.fd = -1};
    WalName parsed;
    bool ready = true;

    if (!wal_name_parse(name, &parsed))
        return true;
    if (!is_ready(pushing, name, &ready, err))
        return false;
    if (!ready) {
        Error busy = ERROR_INIT;

        if (push_note_open(&note, &pushing->spool, &parsed, false, &busy))
            push_note_remove(&note);
        push_note_free(&note);
    }
    return true;
}

static bool
remove_old_notes(const Pushing *pushing, Error *err)
{
    const char *path = pushing->spool.ahead->spool;
    const char *cluster = pushing->spool.cluster;
    size_t cluster_len = strlen(cluster);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    bool ok = true;

    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", path);
    while (ok && (entry = dir_next(dir)) != NULL) {
        if (strncmp(entry->d_name, cluster, cluster_len) == 0)
            ok = remove_old_note(pushing, entry->d_name + cluster_len, err);
    }
    (void)closedir(dir);
    return ok;
}

/* ---- who pushes ahead ---- */

bool
archive_ahead_open(const ArchiveAhead *ahead, int *ret_lock, Error *err)
{
    PushSpool spool;
    ClaimedFile file = {.fd = -1};
    Error busy = ERROR_INIT;
    bool ok = push_spool_open(&spool, ahead, err);

    *ret_lock = -1;
    if (ok && claimed_file_open(&file, push_spool_path(&spool, LOCK_NAME, &busy), 0600, &busy) &&
        file.locked) {
        *ret_lock = file.fd;
        file.fd = -1;
    }
    file.ours = false;
    claimed_file_free(&file);
    push_spool_free(&spool);
    if (!ok || busy.code == ERR_NONE || busy.sys_errno == EWOULDBLOCK)
        return ok;
    *err = busy;
    return false;
}

/* ---- pushing ---- */

/* The server may have been told of it, and have forgotten it, since it was found. */
static bool
push_one(Pushing *pushing, const Ready *ready, PushNote *note, Error *err)
{
    bool wanted;
    bool fresh;

    if (!is_ready(pushing, ready->name, &wanted, err))
        return false;
    if (!wanted)
        return true;
    if (!push_note_is_fresh(&pushing->spool, note, &fresh, err))
        return false;
    if (fresh)
        return true;
    if (!push_note_push(&pushing->spool, note, err)) {
        push_note_remove(note);
        return false;
    }
    atomic_fetch_add(&pushing->noted, 1);
    return true;
}

static bool
run_job(void *ctx, const WorkSlot *slot, size_t job, Error *err)
{
    Pushing *pushing = ctx;
    const Ready *ready = &pushing->ready[job];
    PushNote note;
    Error busy = ERROR_INIT;
    bool ok;

    if (atomic_load(slot->ending))
        return error_set_stopped(err);
    if (push_note_open(&note, &pushing->spool, &ready->parsed, false, &busy)) {
        ok = push_one(pushing, ready, &note, err);
    } else {
        /* The server itself has got to it. */
        ok = busy.sys_errno == EWOULDBLOCK;
        if (!ok)
            *err = busy;
    }
    push_note_free(&note);
    return ok;
}

static WorkNext
take_job(void *ctx, size_t job, Error *err)
{
    (void)ctx;
    (void)job;
    (void)err;
    return WORK_GO_ON;
}

/* Once: those that are ready now. */
static bool
push_ready(Pushing *pushing, Error *err)
{
    Work work = {
        .threads = pushing->spool.ahead->threads, .ctx = pushing, .run = run_job, .take = take_job};

    atomic_store(&pushing->noted, 0);
    if (!remove_old_notes(pushing, err) || !find_ready(pushing, err))
        return false;
    work.count = pushing->count;
    return work.count == 0 || work_run(&work, err);
}

/* The server goes on meanwhile, and there is more to do; but never more than `count` are ahead of
 * it. */
bool
archive_ahead(const ArchiveAhead *ahead, Error *err)
{
    Pushing pushing = {.count = 0};
    bool ok = push_spool_open(&pushing.spool, ahead, err);

    if (ok) {
        pushing.status = path_join(pushing.spool.wal, "archive_status", err);
        pushing.ready = mem_zero(ahead->count * sizeof *pushing.ready, err);
        ok = pushing.status != NULL && pushing.ready != NULL;
    }
    do {
        ok = ok && push_ready(&pushing, err);
    } while (ok && atomic_load(&pushing.noted) > 0);
    free(pushing.ready);
    free(pushing.status);
    push_spool_free(&pushing.spool);
    return ok;
}
