/*
 * Millions of files may pass, so what is known of one is packed: an index numbers the paths in the
 * order of arrival, and by these numbers lie sizes and digests, these at their type's length.
 */
#include <stdlib.h>
#include <string.h>

#include "common/path_index.h"
#include "pgformat/relfile.h"
#include "stream/stage.h"
#include "verify/internal.h"

struct Ledger {
    ChecksumType type;
    PathIndex *paths;
    uint8_t *records; /* by the number of the path: its size, then its digest */
    size_t record_size;
    size_t record_capacity; /* in records */
    uint64_t count;
    uint64_t bytes;
    PageDigestWriter *pages; /* NULL: nobody wants to know them */
};

/* ---- records ---- */

static uint8_t *
record_at(const Ledger *ledger, uint32_t number)
{
    return ledger->records + number * ledger->record_size;
}

static uint64_t
record_file_size(const uint8_t *record)
{
    uint64_t size;

    memcpy(&size, record, sizeof size); /* records are not aligned */
    return size;
}

static const uint8_t *
record_digest(const uint8_t *record)
{
    return record + sizeof(uint64_t);
}

/* A file begins: it must be the first of its path. */
static bool
ledger_add(Ledger *ledger, const char *path, uint32_t *ret_number, Error *err)
{
    void *records = ledger->records;
    bool added;

    if (!mem_grow(&records, &ledger->record_capacity, path_index_count(ledger->paths) + 1,
                  ledger->record_size, err))
        return false;
    ledger->records = records;
    if (!path_index_add(ledger->paths, path, strlen(path), ret_number, &added, err))
        return false;
    if (!added)
        return error_set(err, ERR_FORMAT, "file \"%s\" was received twice", path);
    memset(record_at(ledger, *ret_number), 0, ledger->record_size);
    return true;
}

/* It has ended. */
static void
ledger_record(Ledger *ledger, uint32_t number, uint64_t size, const Digest *digest)
{
    uint8_t *record = record_at(ledger, number);

    memcpy(record, &size, sizeof size);
    memcpy(record + sizeof size, digest->bytes, digest->len);
    ledger->count++;
    ledger->bytes += size;
}

Ledger *
ledger_new(ChecksumType type, Error *err)
{
    Ledger *ledger = mem_zero(sizeof *ledger, err);

    if (ledger == NULL)
        return NULL;
    ledger->type = type;
    ledger->record_size = sizeof(uint64_t) + checksum_length(type);
    ledger->paths = path_index_new(err);
    if (ledger->paths == NULL) {
        ledger_free(ledger);
        return NULL;
    }
    return ledger;
}

void
ledger_free(Ledger *ledger)
{
    if (ledger == NULL)
        return;
    path_index_free(ledger->paths);
    free(ledger->records);
    free(ledger);
}

void
ledger_digest_pages(Ledger *ledger, PageDigestWriter *writer)
{
    ledger->pages = writer;
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
    bool in_file;
    Buf path;        /* of the file at hand, as the manifest names it */
    uint32_t number; /* that the ledger gave it */
    uint64_t size;
    Checksum checksum;
    bool by_page; /* its pages are digested one by one */
    PageDigester pages;
} LedgerStage;

static bool
begin_pages(LedgerStage *stage, const Entry *entry, Error *err)
{
    RelFile file;

    stage->by_page =
        stage->ledger->pages != NULL && relfile_parse(entry->path, stage->sink.tablespace, &file);
    return !stage->by_page ||
           page_digester_begin(&stage->pages, buf_text(&stage->path), entry->size, err);
}

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    LedgerStage *stage = (LedgerStage *)self;

    if (entry->kind != ENTRY_FILE)
        return true;
    if (!member_path(self->tablespace, entry, &stage->path, err) ||
        !ledger_add(stage->ledger, buf_text(&stage->path), &stage->number, err) ||
        !checksum_begin(&stage->checksum, stage->ledger->type, err) ||
        !begin_pages(stage, entry, err))
        return false;
    stage->size = 0;
    stage->in_file = true;
    return true;
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    LedgerStage *stage = (LedgerStage *)self;

    if (!stage->in_file)
        return error_set(err, ERR_BUG, "data outside of a file reached the ledger");
    stage->size += data.len;
    if (stage->by_page && !page_digester_feed(&stage->pages, data, err))
        return false;
    if (stage->by_page && stage->ledger->type == CHECKSUM_CRC32C)
        return true; /* the file's is made of those of its pages */
    return checksum_update(&stage->checksum, data.data, data.len, err);
}

static bool
end_pages(LedgerStage *stage, Error *err)
{
    uint32_t crc;

    if (!stage->by_page)
        return true;
    if (!page_digester_end(&stage->pages, &crc, err))
        return false;
    if (stage->ledger->type == CHECKSUM_CRC32C)
        stage->checksum.crc = crc;
    return true;
}

/* A file that was cut short is recorded with what came: its size shows in the comparison. */
static bool
end_entry(Sink *self, Error *err)
{
    LedgerStage *stage = (LedgerStage *)self;
    Digest digest;

    if (!stage->in_file)
        return true;
    stage->in_file = false;
    if (!end_pages(stage, err) || !checksum_finish(&stage->checksum, &digest, err))
        return false;
    ledger_record(stage->ledger, stage->number, stage->size, &digest);
    return true;
}

static const WatchOps ledger_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
    .entry_end = end_entry,
};

static bool
ledger_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &ledger_watch, event, err);
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
    if (ledger->pages != NULL)
        page_digester_init(&stage->pages, ledger->pages);
    return &stage->sink;
}

/* ---- the comparison ---- */

static bool
compare_digest(const Ledger *ledger, const uint8_t *record, const ManifestFile *file,
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
    return report_digest(reporter, file, digest_check(file, record_digest(record), len),
                         (Span){.data = record_digest(record), .len = len}, err);
}

/* What the manifest has must have passed. */
static bool
compare_file(const Ledger *ledger, const ManifestFile *file, Reporter *reporter, Error *err)
{
    Problem problem = {.path = file->path};
    const uint8_t *record;
    uint32_t number;

    if (!path_index_find(ledger->paths, file->path, &number)) {
        problem.kind = PROBLEM_MISSING;
        return report(reporter, &problem, err, "\"%s\" is in the manifest but was not received",
                      file->path);
    }
    record = record_at(ledger, number);
    if (record_file_size(record) != file->size) {
        problem.kind = PROBLEM_SIZE;
        return report(reporter, &problem, err,
                      "\"%s\" has size %llu as received but size %llu in the manifest", file->path,
                      (unsigned long long)record_file_size(record), (unsigned long long)file->size);
    }
    return compare_digest(ledger, record, file, reporter, err);
}

/* What passed must be in the manifest, except WAL segments, which manifests do not list. */
static bool
compare_path(const char *path, const Manifest *manifest, Reporter *reporter, Error *err)
{
    static const char wal[] = "pg_wal/";

    if (manifest_find(manifest, path) != NULL || strncmp(path, wal, sizeof wal - 1) == 0)
        return true;
    return report(reporter, &(Problem){.kind = PROBLEM_EXTRA, .path = path}, err,
                  "\"%s\" was received but is not in the manifest", path);
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
compare_paths(const Ledger *ledger, const Manifest *manifest, Reporter *reporter, Error *err)
{
    size_t count = path_index_count(ledger->paths);

    for (uint32_t i = 0; i < count && !reporter->enough; i++) {
        if (!compare_path(path_index_path(ledger->paths, i), manifest, reporter, err))
            return false;
    }
    return true;
}

bool
ledger_compare(const Ledger *ledger, const Manifest *manifest, const ProblemSink *sink,
               uint64_t *ret_problems, Error *err)
{
    Reporter reporter = REPORTER_INIT(sink);
    bool ok = compare_files(ledger, manifest, &reporter, err) &&
              compare_paths(ledger, manifest, &reporter, err);

    if (ok)
        *ret_problems = reporter.count;
    reporter_free(&reporter);
    return ok;
}
