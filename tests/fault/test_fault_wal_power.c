/*
 * A power failure at any moment: a WAL directory gets segments of random bytes, in pieces and with
 * FLUSHes at random places, over several timelines; before every call that changes the disk, the
 * durable mark is compared with what the disk would keep, and the written one with what the files
 * hold. Nothing fails here; some runs are given up in the middle.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "disk.h"
#include "fault.h"
#include "pgformat/walfile.h"
#include "support/temp_dir.h"
#include "walrecv/walrecv.h"

#define MB           ((size_t)1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENTS  ((size_t)10) /* of a run */
#define RUNS      24           /* of each kind */
#define FIRST     ((uint64_t)3)
#define PIECE_MAX ((size_t)200000)

static const char *const suffixes[] = {[COMPRESSION_NONE] = "",
                                       [COMPRESSION_GZIP] = ".gz",
                                       [COMPRESSION_LZ4] = ".lz4",
                                       [COMPRESSION_ZSTD] = ".zst"};

/* A segment as it was pushed; of several timelines there may be several with one start. */
typedef struct Segment {
    char name[WAL_NAME_SIZE];
    const char *partial;
    const char *named;
    Lsn start;
    size_t pushed; /* bytes, so far */
    size_t kind;   /* of its bytes */
    bool stale;    /* a NAME.partial was there before */
} Segment;

typedef struct World {
    TempDir dir;
    WalDirConfig config;
    DurableMark mark;
    DurableMark written;
    uint64_t random;
    uint8_t *bytes;      /* MB + SEGMENTS: that of a kind begins at its number */
    TimeLineID timeline; /* and */
    uint64_t number;     /* of the next segment */

    pthread_mutex_t lock; /* for the rest, which the watch reads */
    Segment segments[SEGMENTS];
    size_t count;
    char violation[256];
} World;

static uint64_t
next_random(World *world, uint64_t below)
{
    world->random = world->random * 6364136223846793005u + 1442695040888963407u;
    return (world->random >> 33) % below;
}

/* ---- what a power failure would leave ---- */

/* How much of it would be found. In the order in which it changes its name. */
static uint64_t
safe_bytes(const World *world, const Segment *segment)
{
    uint64_t safe = disk_safe_to(segment->partial);
    uint64_t named = disk_safe_to(segment->named);
    bool whole = named > 0 && disk_content_safe(segment->named) && disk_name_safe(segment->named);

    if (whole && world->config.compression.method != COMPRESSION_NONE)
        return MB;
    if (world->config.compression.method == COMPRESSION_NONE && named > safe)
        return named;
    return safe;
}

/* Up to where all that was pushed would be found. */
static Lsn
safe_end(const World *world)
{
    Lsn end = 0;

    for (size_t i = 0; i < world->count; i++) {
        const Segment *segment = &world->segments[i];
        uint64_t safe = safe_bytes(world, segment);

        if (safe > segment->pushed)
            safe = segment->pushed;
        if (segment->start + safe > end && safe > 0)
            end = segment->start + safe;
        if (safe < segment->pushed)
            break;
    }
    return end;
}

static void
note_violation(World *world, bool ok, const char *what, const char *path)
{
    if (ok || world->violation[0] != '\0')
        return;
    (void)snprintf(world->violation, sizeof world->violation, "%s at \"%s\"", what, path);
}

static bool
is_named_segment(const World *world, const char *path)
{
    for (size_t i = 0; i < world->count; i++) {
        if (strcmp(path, world->segments[i].named) == 0)
            return true;
    }
    return false;
}

static bool
is_history(const char *path)
{
    const char *suffix = strrchr(path, '.');

    return suffix != NULL && strcmp(suffix, ".history") == 0;
}

/* Names appear in order: all segments before this one that are complete have theirs. */
static bool
earlier_are_named(const World *world, const char *path)
{
    struct stat st;

    for (size_t i = 0; i < world->count; i++) {
        if (strcmp(path, world->segments[i].named) == 0)
            return true;
        if (world->segments[i].pushed == MB && stat(world->segments[i].named, &st) != 0)
            return false;
    }
    return true;
}

static bool
may_be_removed(const World *world, const char *path)
{
    for (size_t i = 0; i < world->count; i++) {
        if (strcmp(path, world->segments[i].partial) == 0)
            return safe_bytes(world, &world->segments[i]) == MB &&
                   disk_name_safe(world->segments[i].named);
    }
    return true;
}

/* Its file has this byte, if it is not named yet. No byte of a segment is zero. */
static bool
is_written(const World *world, const Segment *segment, size_t at)
{
    FILE *file = fopen(segment->partial, "r");
    bool written = false;
    struct stat st;

    if (file != NULL) {
        written =
            fseek(file, (long)at, SEEK_SET) == 0 && fgetc(file) == world->bytes[segment->kind + at];
        (void)fclose(file);
    }
    return written || stat(segment->named, &st) == 0;
}

/* How much of a segment is reported as written. On a new timeline what was so on the one before
 * says nothing. */
static size_t
written_bytes(const World *world, const Segment *segment, Lsn written)
{
    Lsn end = segment->start + segment->pushed;

    if (written < end)
        end = written;
    for (const Segment *other = world->segments; other < segment; other++) {
        if (end <= other->start + other->pushed)
            return 0;
    }
    return end <= segment->start ? 0 : (size_t)(end - segment->start);
}

/* Of each segment the last byte of that. */
static bool
all_is_written(const World *world, Lsn written)
{
    for (size_t i = 0; i < world->count; i++) {
        size_t end = written_bytes(world, &world->segments[i], written);

        if (end > 0 && !is_written(world, &world->segments[i], end - 1))
            return false;
    }
    return true;
}

/* Any thread. The marks first: what is safe later was not less before. */
static void
watch(void *ctx, FaultKind kind, const char *path)
{
    World *world = ctx;
    Lsn mark = durable_mark_get(&world->mark);
    Lsn written = durable_mark_get(&world->written);
    bool under_test = fault_suspend();

    (void)pthread_mutex_lock(&world->lock);
    note_violation(world, mark <= safe_end(world), "the mark is ahead", path);
    note_violation(world, mark <= written, "more is flushed than written", path);
    note_violation(world, all_is_written(world, written), "not all is written", path);
    if (kind == FAULT_RENAME && (is_named_segment(world, path) || is_history(path)))
        note_violation(world, earlier_are_named(world, path), "named out of order", path);
    if (kind == FAULT_REMOVE)
        note_violation(world, may_be_removed(world, path), "removed too early", path);
    (void)pthread_mutex_unlock(&world->lock);
    fault_resume(under_test);
}

/* ---- a run ---- */

static Segment *
add_segment(World *world)
{
    Segment *segment = &world->segments[world->count];
    char name[WAL_NAME_SIZE + 16];
    bool under_test = fault_suspend();

    *segment =
        (Segment){.kind = world->count, .start = wal_segment_start(world->number, (uint32_t)MB)};
    wal_segment_name(segment->name, world->timeline, world->number, (uint32_t)MB);
    (void)snprintf(name, sizeof name, "%s.partial", segment->name);
    segment->partial = temp_dir_path(&world->dir, name);
    segment->stale = next_random(world, 4) == 0;
    if (segment->stale)
        temp_dir_write(&world->dir, name, world->bytes, (size_t)next_random(world, MB + 1000));
    (void)snprintf(name, sizeof name, "%s%s", segment->name,
                   suffixes[world->config.compression.method]);
    segment->named = temp_dir_path(&world->dir, name);
    fault_resume(under_test);

    (void)pthread_mutex_lock(&world->lock);
    world->count++;
    (void)pthread_mutex_unlock(&world->lock);
    return segment;
}

static bool
push_piece(World *world, Sink *sink, Segment *segment, size_t end, Error *err)
{
    size_t len = 1 + (size_t)next_random(world, next_random(world, 3) == 0 ? 300 : PIECE_MAX);
    Span piece = {.data = world->bytes + segment->kind + segment->pushed};

    piece.len = len < end - segment->pushed ? len : end - segment->pushed;
    (void)pthread_mutex_lock(&world->lock);
    segment->pushed += piece.len;
    (void)pthread_mutex_unlock(&world->lock);
    return sink_data(sink, piece, err);
}

static bool
push_flush(const World *world, Sink *sink, Lsn lsn, Error *err)
{
    if (!sink_flush(sink, lsn, err))
        return false;
    fault_assert(durable_mark_get(&world->mark) >= lsn, "flushed, but not marked");
    return true;
}

/* Up to `end`, with a FLUSH now and then. */
static bool
push_segment(World *world, Sink *sink, size_t end, Error *err)
{
    Segment *segment = add_segment(world);
    const Entry entry = {.kind = ENTRY_FILE, .path = segment->name, .size = MB, .mode = 0600};
    const uint64_t rarity = 1 + next_random(world, 20); /* one piece in so many is flushed */

    if (!sink_entry_begin(sink, &entry, err))
        return false;
    while (segment->pushed < end) {
        if (!push_piece(world, sink, segment, end, err))
            return false;
        if (next_random(world, rarity) == 0 &&
            !push_flush(world, sink, segment->start + segment->pushed, err))
            return false;
    }
    return sink_entry_end(sink, end == MB, err);
}

static bool
push_history(const World *world, Sink *sink, Error *err)
{
    char name[WAL_NAME_SIZE];
    const Entry entry = {.kind = ENTRY_FILE, .path = name, .size = 7, .mode = 0600};

    wal_history_name(name, world->timeline);
    return sink_entry_begin(sink, &entry, err) && sink_data(sink, span_of("history"), err) &&
           sink_entry_end(sink, true, err);
}

/* The server may be promoted in the middle of a segment: the next timeline begins with it. */
static bool
push_some(World *world, Sink *sink, Error *err)
{
    if (next_random(world, 4) == 0) {
        if (!push_segment(world, sink, 1 + (size_t)next_random(world, MB - 1), err))
            return false;
        world->timeline++;
        return push_history(world, sink, err);
    }
    if (!push_segment(world, sink, MB, err))
        return false;
    world->number++;
    return true;
}

static bool
push_all(World *world, Sink *sink, size_t count, Error *err)
{
    const Archive archive = {.name = "pg_wal"};

    if (!sink_archive_begin(sink, &archive, err))
        return false;
    while (world->count < count) {
        if (!push_some(world, sink, err))
            return false;
    }
    return sink_archive_end(sink, err);
}

/* ---- what is there in the end ---- */

typedef struct Comparison {
    const uint8_t *expected;
    size_t at;
    bool differs;
} Comparison;

static bool
compare(void *ctx, Span bytes)
{
    Comparison *comparison = ctx;

    if (bytes.len > MB - comparison->at ||
        memcmp(bytes.data, comparison->expected + comparison->at, bytes.len) != 0)
        comparison->differs = true;
    else
        comparison->at += bytes.len;
    return !comparison->differs;
}

static void
assert_whole(const World *world, const Segment *segment)
{
    Comparison comparison = {.expected = world->bytes + segment->kind};
    Error err = ERROR_INIT;
    bool ok = wal_segment_read(segment->named, world->config.compression.method, (uint32_t)MB,
                               compare, &comparison, &err);

    fault_assert(ok && !comparison.differs && comparison.at == MB, "\"%s\" is damaged: %s",
                 segment->named, err.message);
}

/* From one file or the other. */
static void
assert_readable(World *world, const Segment *segment, size_t len)
{
    char name[WAL_NAME_SIZE + 16];
    struct stat st;
    Buf content;

    if (stat(segment->named, &st) == 0) {
        assert_whole(world, segment);
        return;
    }
    (void)snprintf(name, sizeof name, "%s.partial", segment->name);
    if (len == 0 && !temp_dir_exists(&world->dir, name))
        return;
    content = temp_dir_read(&world->dir, name);
    fault_assert(len == 0 || content.len >= MB, "\"%s\" has %zu bytes", name, content.len);
    fault_assert(len == 0 || memcmp(content.data, world->bytes + segment->kind, len) == 0,
                 "\"%s\" has another content", name);
    if (!segment->stale) {
        for (size_t i = segment->pushed; i < content.len; i++)
            fault_assert(content.data[i] == 0, "\"%s\" has something at %zu", name, i);
    }
    buf_free(&content);
}

static void
assert_ending(World *world, bool finished)
{
    const char *unsafe = disk_unsafe(world->dir.path, "");
    const Lsn written = durable_mark_get(&world->written);
    struct stat st;

    fault_assert(world->violation[0] == '\0', "%s", world->violation);
    fault_assert(durable_mark_get(&world->mark) <= safe_end(world), "the mark is ahead");
    for (size_t i = 0; i < world->count; i++) {
        const Segment *segment = &world->segments[i];
        char temp[WAL_NAME_SIZE + 16];

        /* In the end that is all that was pushed; before, what was reported, even if not synced. */
        assert_readable(world, segment,
                        finished ? segment->pushed : written_bytes(world, segment, written));
        (void)snprintf(temp, sizeof temp, "%s.tmp%s", segment->name,
                       suffixes[world->config.compression.method]);
        fault_assert(!temp_dir_exists(&world->dir, temp), "\"%s\" is left", temp);
        if (finished)
            fault_assert((stat(segment->named, &st) == 0) == (segment->pushed == MB) &&
                             (stat(segment->partial, &st) == 0) == (segment->pushed < MB),
                         "\"%s\" has the wrong name", segment->name);
    }
    if (!finished)
        return;
    fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
    fault_assert(durable_mark_get(&world->mark) == safe_end(world), "the mark is behind");
    fault_assert(durable_mark_get(&world->written) == safe_end(world), "not all is written");
}

static void
prepare(World *world, const WalDirConfig *config, unsigned seed)
{
    temp_dir_make(&world->dir);
    world->config = *config;
    world->config.directory = world->dir.path;
    world->config.durable = &world->mark;
    world->config.written = &world->written;
    atomic_store(&world->mark.lsn, 0);
    atomic_store(&world->written.lsn, 0);
    world->random = seed;
    world->timeline = 1;
    world->number = FIRST;
    world->count = 0;
    world->violation[0] = '\0';
}

/* Every third run is given up at some place. */
static void
run(World *world, const WalDirConfig *config, unsigned seed)
{
    const FaultPlan nothing = {.kind = FAULT_MEMORY};
    const bool finished = seed % 3 != 0;
    Error err = ERROR_INIT;
    FaultHit hit;
    Sink *sink;
    bool ok;

    prepare(world, config, seed);
    fault_watch(&(FaultWatch){.before = watch, .ctx = world});
    fault_begin(&nothing);
    sink = wal_dir_new(&world->config, &err);
    ok = sink != NULL && push_all(world, sink, finished ? SEGMENTS - 1 : seed % SEGMENTS, &err) &&
         (!finished || sink_finish(sink, &err));
    sink_free(sink);
    fault_end(&hit);
    fault_watch(NULL);
    fault_assert(ok, "seed %u: %s", seed, err.message);
    fault_assert_nothing_left();
    assert_ending(world, finished);
    temp_dir_remove(&world->dir);
}

static void
run_all(World *world, CompressionMethod method, bool write_ahead)
{
    const WalDirConfig config = {
        .segment_size = (uint32_t)MB,
        .file_mode = 0600,
        .remainder = WAL_KEEP_PARTIAL,
        .sync = WAL_DURABLE,
        .compression = {.method = method, .level = method == COMPRESSION_GZIP ? 1 : 0},
        .write_ahead = write_ahead,
    };

    for (unsigned seed = 1; seed <= RUNS; seed++)
        run(world, &config, seed);
}

static void
test_plain(void **state)
{
    run_all(*state, COMPRESSION_NONE, false);
}

static void
test_plain_write_ahead(void **state)
{
    run_all(*state, COMPRESSION_NONE, true);
}

static void
test_gzip(void **state)
{
    run_all(*state, COMPRESSION_GZIP, false);
}

static void
test_lz4(void **state)
{
    run_all(*state, COMPRESSION_LZ4, false);
}

static void
test_lz4_write_ahead(void **state)
{
    run_all(*state, COMPRESSION_LZ4, true);
}

static void
test_zstd(void **state)
{
    run_all(*state, COMPRESSION_ZSTD, false);
}

static int
setup(void **state)
{
    static World world;
    uint64_t noise = 1;

    world = (World){.bytes = malloc(MB + SEGMENTS)};
    if (world.bytes == NULL)
        return -1;
    (void)pthread_mutex_init(&world.lock, NULL);
    for (size_t i = 0; i < MB + SEGMENTS; i++) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        world.bytes[i] = (uint8_t)(1 + (noise >> 33) % 255);
    }
    *state = &world;
    return 0;
}

static int
teardown(void **state)
{
    World *world = *state;

    free(world->bytes);
    (void)pthread_mutex_destroy(&world->lock);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_plain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plain_write_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gzip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lz4, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lz4_write_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zstd, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
