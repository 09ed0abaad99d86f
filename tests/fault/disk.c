#include "disk.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_SIZE   512
#define RECORDS_MAX 2048

typedef struct Record {
    char path[PATH_SIZE];
    uint64_t written; /* the furthest end of a write */
    uint64_t synced;  /* what `written` was at the last sync */
    bool dirty;       /* written to since the last sync */
    bool name_safe;
    bool reachable; /* by this name or the one before */
} Record;

static Record records[RECORDS_MAX];
static size_t record_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- records; with the lock ---- */

static Record *
find(const char *path)
{
    for (size_t i = 0; i < record_count; i++) {
        if (strcmp(records[i].path, path) == 0)
            return &records[i];
    }
    return NULL;
}

/* What was never heard of was there before. */
static Record *
find_or_add(const char *path)
{
    Record *record = find(path);

    if (record != NULL)
        return record;
    if (record_count == RECORDS_MAX || strlen(path) >= PATH_SIZE) {
        (void)fprintf(stderr, "test support: no room for \"%s\"\n", path);
        abort();
    }
    record = &records[record_count++];
    *record = (Record){.name_safe = true, .reachable = true};
    (void)snprintf(record->path, sizeof record->path, "%s", path);
    return record;
}

static void
forget(const char *path)
{
    Record *record = find(path);

    if (record != NULL)
        *record = records[--record_count];
}

static bool
is_child(const char *path, const char *directory)
{
    size_t len = strlen(directory);

    return strncmp(path, directory, len) == 0 && path[len] == '/' &&
           strchr(path + len + 1, '/') == NULL;
}

static bool
is_below(const char *path, const char *top)
{
    size_t len = strlen(top);

    return strncmp(path, top, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* ---- what happened ---- */

void
disk_reset(void)
{
    (void)pthread_mutex_lock(&lock);
    record_count = 0;
    (void)pthread_mutex_unlock(&lock);
}

void
disk_written(const char *path, uint64_t end)
{
    Record *record;

    (void)pthread_mutex_lock(&lock);
    record = find_or_add(path);
    record->dirty = true;
    if (end > record->written)
        record->written = end;
    (void)pthread_mutex_unlock(&lock);
}

void
disk_named(const char *path)
{
    Record *record;

    (void)pthread_mutex_lock(&lock);
    record = find_or_add(path);
    record->name_safe = false;
    record->reachable = false;
    (void)pthread_mutex_unlock(&lock);
}

void
disk_renamed(const char *from, const char *to)
{
    Record *record;

    (void)pthread_mutex_lock(&lock);
    forget(to);
    record = find_or_add(from);
    (void)snprintf(record->path, sizeof record->path, "%s", to);
    record->name_safe = false;
    (void)pthread_mutex_unlock(&lock);
}

void
disk_removed(const char *path)
{
    (void)pthread_mutex_lock(&lock);
    forget(path);
    (void)pthread_mutex_unlock(&lock);
}

void
disk_synced(const char *path)
{
    Record *self;

    (void)pthread_mutex_lock(&lock);
    self = find(path);
    if (self != NULL) {
        self->dirty = false;
        self->synced = self->written;
    }
    for (size_t i = 0; i < record_count; i++) {
        if (is_child(records[i].path, path)) {
            records[i].name_safe = true;
            records[i].reachable = true;
        }
    }
    (void)pthread_mutex_unlock(&lock);
}

void
disk_synced_all(void)
{
    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < record_count; i++) {
        Record *record = &records[i];

        record->dirty = false;
        record->synced = record->written;
        record->name_safe = true;
        record->reachable = true;
    }
    (void)pthread_mutex_unlock(&lock);
}

/* ---- what is safe ---- */

uint64_t
disk_safe_to(const char *path)
{
    const Record *record;
    uint64_t safe = 0;

    (void)pthread_mutex_lock(&lock);
    record = find(path);
    if (record != NULL && record->reachable)
        safe = record->synced;
    (void)pthread_mutex_unlock(&lock);
    return safe;
}

bool
disk_content_safe(const char *path)
{
    const Record *record;
    bool safe;

    (void)pthread_mutex_lock(&lock);
    record = find(path);
    safe = record == NULL || !record->dirty;
    (void)pthread_mutex_unlock(&lock);
    return safe;
}

bool
disk_name_safe(const char *path)
{
    const Record *record;
    bool safe;

    (void)pthread_mutex_lock(&lock);
    record = find(path);
    safe = record == NULL || record->name_safe;
    (void)pthread_mutex_unlock(&lock);
    return safe;
}

const char *
disk_unsafe(const char *top, const char *except)
{
    static char unsafe[PATH_SIZE];

    unsafe[0] = '\0';
    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < record_count && unsafe[0] == '\0'; i++) {
        const Record *record = &records[i];

        if (is_below(record->path, top) && strcmp(record->path, except) != 0 &&
            (record->dirty || !record->name_safe))
            memcpy(unsafe, record->path, sizeof unsafe);
    }
    (void)pthread_mutex_unlock(&lock);
    return unsafe;
}
