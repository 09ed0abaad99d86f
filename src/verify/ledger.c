/*
 * Millions of files may pass, so a record is one piece of memory in large chunks: a fixed part, the
 * path, the digest at its type's length. Records follow each other in the order of arrival. A hash
 * table of pointers finds them by path; its hash is keyed, because the paths are the server's to
 * choose.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "stream/stage.h"
#include "verify/internal.h"

#define CHUNK_SIZE ((size_t)64 * 1024)

typedef struct Record {
    uint64_t size;
    uint32_t hash;
    uint32_t path_len;
    char path[]; /* terminated; the digest follows */
} Record;

typedef struct Chunk {
    struct Chunk *next;
    size_t used;
    size_t capacity;
    _Alignas(Record) uint8_t bytes[];
} Chunk;

struct Ledger {
    ChecksumType type;
    Chunk *first;
    Chunk *last;
    Record **slots;    /* open addressing; NULL: free */
    size_t slot_count; /* a power of two */
    size_t count;
    uint64_t bytes;
    uint64_t key[2];
};

/* ---- the hash: SipHash-1-3 (Aumasson and Bernstein) ---- */

static uint64_t
rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static void
sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

static uint32_t
path_hash(const Ledger *ledger, const char *path, size_t len)
{
    uint64_t v[4] = {ledger->key[0] ^ 0x736f6d6570736575U, ledger->key[1] ^ 0x646f72616e646f6dU,
                     ledger->key[0] ^ 0x6c7967656e657261U, ledger->key[1] ^ 0x7465646279746573U};
    uint8_t last[8] = {0};
    uint64_t word;
    size_t at = 0;

    for (; len - at >= 8; at += 8) {
        word = get_le64((const uint8_t *)path + at);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    memcpy(last, path + at, len - at);
    last[7] = (uint8_t)len;
    word = get_le64(last);
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    word = v[0] ^ v[1] ^ v[2] ^ v[3];
    return (uint32_t)(word ^ word >> 32);
}

/* ---- records ---- */

static const uint8_t *
record_digest(const Record *record)
{
    return (const uint8_t *)record->path + record->path_len + 1;
}

/* Bytes from one record to the next. */
static size_t
record_stride(const Ledger *ledger, size_t path_len)
{
    size_t size = sizeof(Record) + path_len + 1 + checksum_length(ledger->type);

    return (size + _Alignof(Record) - 1) & ~(_Alignof(Record) - 1);
}

static Record *
record_alloc(Ledger *ledger, size_t path_len, Error *err)
{
    size_t stride = record_stride(ledger, path_len);
    Chunk *chunk = ledger->last;
    Record *record;

    if (chunk == NULL || chunk->capacity - chunk->used < stride) {
        size_t capacity = stride > CHUNK_SIZE ? stride : CHUNK_SIZE;

        chunk = mem_alloc(sizeof *chunk + capacity, err);
        if (chunk == NULL)
            return NULL;
        *chunk = (Chunk){.capacity = capacity};
        if (ledger->last == NULL)
            ledger->first = chunk;
        else
            ledger->last->next = chunk;
        ledger->last = chunk;
    }
    record = (Record *)(void *)(chunk->bytes + chunk->used);
    chunk->used += stride;
    return record;
}

/* Where `path` is, or the free slot where it belongs. There is always a free slot. */
static Record **
find_slot(const Ledger *ledger, uint32_t hash, const char *path, size_t len)
{
    size_t mask = ledger->slot_count - 1;
    size_t at = hash & mask;

    while (ledger->slots[at] != NULL) {
        const Record *record = ledger->slots[at];

        if (record->hash == hash && record->path_len == len && memcmp(record->path, path, len) == 0)
            break;
        at = (at + 1) & mask;
    }
    return &ledger->slots[at];
}

static const Record *
ledger_find(const Ledger *ledger, const char *path)
{
    size_t len = strlen(path);

    return *find_slot(ledger, path_hash(ledger, path, len), path, len);
}

/* Room for one more: at most three quarters of the slots are taken. */
static bool
slots_reserve(Ledger *ledger, Error *err)
{
    size_t old_count = ledger->slot_count;
    Record **old = ledger->slots;

    if (ledger->count + 1 <= old_count / 4 * 3)
        return true;
    if (old_count > SIZE_MAX / 2 / sizeof *old)
        return error_set_memory(err);
    ledger->slots = mem_zero(old_count * 2 * sizeof *old, err);
    if (ledger->slots == NULL) {
        ledger->slots = old;
        return false;
    }
    ledger->slot_count = old_count * 2;
    for (size_t i = 0; i < old_count; i++) {
        if (old[i] != NULL)
            *find_slot(ledger, old[i]->hash, old[i]->path, old[i]->path_len) = old[i];
    }
    free(old);
    return true;
}

static bool
ledger_add(Ledger *ledger, const char *path, uint64_t size, const Digest *digest, Error *err)
{
    size_t len = strlen(path);
    Record *record;

    if (len > UINT32_MAX)
        return error_set(err, ERR_FORMAT, "file name of %zu bytes is too long", len);
    if (!slots_reserve(ledger, err))
        return false;
    record = record_alloc(ledger, len, err);
    if (record == NULL)
        return false;
    record->size = size;
    record->hash = path_hash(ledger, path, len);
    record->path_len = (uint32_t)len;
    memcpy(record->path, path, len + 1);
    memcpy(record->path + len + 1, digest->bytes, digest->len);
    *find_slot(ledger, record->hash, path, len) = record;
    ledger->count++;
    ledger->bytes += size;
    return true;
}

Ledger *
ledger_new(ChecksumType type, Error *err)
{
    const size_t initial_slots = 1024;
    Ledger *ledger = mem_zero(sizeof *ledger, err);

    if (ledger == NULL)
        return NULL;
    ledger->type = type;
    ledger->slots = mem_zero(initial_slots * sizeof *ledger->slots, err);
    if (ledger->slots == NULL)
        goto failed;
    ledger->slot_count = initial_slots;
    if (getrandom(ledger->key, sizeof ledger->key, 0) != (ssize_t)sizeof ledger->key) {
        (void)error_set_errno(err, errno, "could not get random bytes");
        goto failed;
    }
    return ledger;

failed:
    ledger_free(ledger);
    return NULL;
}

void
ledger_free(Ledger *ledger)
{
    Chunk *chunk;

    if (ledger == NULL)
        return;
    while ((chunk = ledger->first) != NULL) {
        ledger->first = chunk->next;
        free(chunk);
    }
    free(ledger->slots);
    free(ledger);
}

uint64_t
ledger_file_count(const Ledger *ledger)
{
    return ledger->count;
}

uint64_t
ledger_byte_count(const Ledger *ledger)
{
    return ledger->bytes;
}

/* ---- the stage ---- */

typedef struct LedgerStage {
    Sink sink;
    Ledger *ledger;
    Oid tablespace; /* of the archive at hand */
    bool in_file;
    Buf path; /* of the file at hand, as the manifest names it */
    uint64_t size;
    Checksum checksum;
} LedgerStage;

static bool
begin_entry(LedgerStage *stage, const Entry *entry, Error *err)
{
    if (entry->kind != ENTRY_FILE)
        return true;
    buf_clear(&stage->path);
    if (stage->tablespace != 0 &&
        !buf_printf(&stage->path, err, "pg_tblspc/%u/", stage->tablespace))
        return false;
    if (!buf_printf(&stage->path, err, "%s", entry->path))
        return false;
    if (ledger_find(stage->ledger, buf_text(&stage->path)) != NULL)
        return error_set(err, ERR_FORMAT, "file \"%s\" was received twice", buf_text(&stage->path));
    if (!checksum_begin(&stage->checksum, stage->ledger->type, err))
        return false;
    stage->size = 0;
    stage->in_file = true;
    return true;
}

static bool
add_data(LedgerStage *stage, Span data, Error *err)
{
    if (!stage->in_file)
        return error_set(err, ERR_BUG, "data outside of a file reached the ledger");
    stage->size += data.len;
    return checksum_update(&stage->checksum, data.data, data.len, err);
}

/* A file that was cut short is recorded with what came: its size shows in the comparison. */
static bool
end_entry(LedgerStage *stage, Error *err)
{
    Digest digest;

    if (!stage->in_file)
        return true;
    stage->in_file = false;
    return checksum_finish(&stage->checksum, &digest, err) &&
           ledger_add(stage->ledger, buf_text(&stage->path), stage->size, &digest, err);
}

static bool
ledger_push(Sink *self, const Event *event, Error *err)
{
    LedgerStage *stage = (LedgerStage *)self;
    bool ok = true;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        stage->tablespace = event->archive->tablespace;
        break;
    case EVENT_ENTRY_BEGIN:
        ok = begin_entry(stage, event->entry, err);
        break;
    case EVENT_DATA:
        ok = add_data(stage, event->data, err);
        break;
    case EVENT_ENTRY_END:
        ok = end_entry(stage, err);
        break;
    case EVENT_ARCHIVE_END:
    case EVENT_FLUSH:
        break;
    }
    return ok && sink_forward(self, event, err);
}

static void
ledger_release(Sink *self)
{
    LedgerStage *stage = (LedgerStage *)self;

    buf_free(&stage->path);
    checksum_free(&stage->checksum);
}

static const SinkOps ledger_ops = {
    .name = "ledger", .push = ledger_push, .release = ledger_release};

Sink *
ledger_stage_new(Ledger *ledger, Sink *next, Error *err)
{
    LedgerStage *stage = sink_alloc(sizeof *stage, &ledger_ops, next, err);

    if (stage == NULL)
        return NULL;
    stage->ledger = ledger;
    stage->path = BUF_INIT;
    stage->checksum = CHECKSUM_INIT;
    return &stage->sink;
}

/* ---- the comparison ---- */

static bool
compare_digest(const Ledger *ledger, const Record *record, const ManifestFile *file,
               Reporter *reporter, Error *err)
{
    size_t len = checksum_length(ledger->type);

    if (file->checksum_type == CHECKSUM_NONE)
        return true;
    if (file->checksum_type != ledger->type)
        return report(reporter, &(Problem){.kind = PROBLEM_CHECKSUM, .path = file->path}, err,
                      "file \"%s\" has a checksum of type %s in the manifest, but type %s was "
                      "expected",
                      file->path, checksum_type_name(file->checksum_type),
                      checksum_type_name(ledger->type));
    return report_digest(reporter, file, digest_check(file, record_digest(record), len), err);
}

/* What the manifest has must have passed. */
static bool
compare_file(const Ledger *ledger, const ManifestFile *file, Reporter *reporter, Error *err)
{
    const Record *record = ledger_find(ledger, file->path);
    Problem problem = {.path = file->path};

    if (record == NULL) {
        problem.kind = PROBLEM_MISSING;
        return report(reporter, &problem, err, "\"%s\" is in the manifest but was not received",
                      file->path);
    }
    if (record->size != file->size) {
        problem.kind = PROBLEM_SIZE;
        return report(reporter, &problem, err,
                      "\"%s\" has size %llu as received but size %llu in the manifest", file->path,
                      (unsigned long long)record->size, (unsigned long long)file->size);
    }
    return compare_digest(ledger, record, file, reporter, err);
}

/* What passed must be in the manifest, except WAL segments, which manifests do not list. */
static bool
compare_record(const Record *record, const Manifest *manifest, Reporter *reporter, Error *err)
{
    static const char wal[] = "pg_wal/";

    if (manifest_find(manifest, record->path) != NULL ||
        strncmp(record->path, wal, sizeof wal - 1) == 0)
        return true;
    return report(reporter, &(Problem){.kind = PROBLEM_EXTRA, .path = record->path}, err,
                  "\"%s\" was received but is not in the manifest", record->path);
}

static bool
compare_files(const Ledger *ledger, const Manifest *manifest, Reporter *reporter, Error *err)
{
    size_t count = manifest_file_count(manifest);

    for (size_t i = 0; i < count && !reporter->enough; i++) {
        if (!compare_file(ledger, manifest_file(manifest, i), reporter, err))
            return false;
    }
    return true;
}

static bool
compare_records(const Ledger *ledger, const Manifest *manifest, Reporter *reporter, Error *err)
{
    for (const Chunk *chunk = ledger->first; chunk != NULL; chunk = chunk->next) {
        size_t at = 0;

        while (at < chunk->used && !reporter->enough) {
            const Record *record = (const Record *)(const void *)(chunk->bytes + at);

            if (!compare_record(record, manifest, reporter, err))
                return false;
            at += record_stride(ledger, record->path_len);
        }
    }
    return true;
}

bool
ledger_compare(const Ledger *ledger, const Manifest *manifest, const ProblemSink *sink,
               uint64_t *ret_problems, Error *err)
{
    Reporter reporter = REPORTER_INIT(sink);
    bool ok = compare_files(ledger, manifest, &reporter, err) &&
              compare_records(ledger, manifest, &reporter, err);

    if (ok)
        *ret_problems = reporter.count;
    reporter_free(&reporter);
    return ok;
}
