/*
 * The files of a list become jobs for the threads of common/work.h: small ones together, so that
 * handing them out costs little; big ones one by one; and of those whose digest can be put together
 * (CRC-32C, or none) each range by itself. How they are cut depends on the list alone.
 *
 * Long jobs, the big files whose digest is one chain, are begun first, the longest of them before
 * the others: one that is begun last would leave all other threads idle.
 *
 * A job's result waits in a slot of its own until it is taken in turn: the sums, what is wrong with
 * its files, and of a range its CRC and pages. Most files are all right and leave nothing.
 */
#include <stdlib.h>

#include "common/work.h"
#include "pgformat/relfile.h"
#include "verify/internal.h"

/* Files go together up to so many, or so many bytes. */
#define BATCH_FILES 64u
#define BATCH_BYTES ((uint64_t)1024 * 1024)

/* A whole number of CONTENT_PIECEs, and of pages of any size. */
#define RANGE_BYTES ((uint64_t)16 * 1024 * 1024)

/* Of one file: there is no bound to what a sparse file pretends to be. */
#define RANGES_MAX ((uint64_t)4096)

#define AHEAD_PER_THREAD ((size_t)4)

/* Files of the list up to `end`; or a range of one, counted from 1. */
typedef struct ContentJob {
    uint32_t first;
    uint32_t end;
    uint32_t range;     /* 0: it is not about ranges */
    uint32_t long_slot; /* of a long job: its result's, from 1; otherwise 0 */
} ContentJob;

typedef struct LongJob {
    size_t job;
    uint64_t size;
} LongJob;

typedef struct Note {
    uint32_t number;
    FileFinding finding;
} Note;

typedef struct JobResult {
    VerifySummary sums;
    FileFinding range;
    Note *notes; /* in the order of their files */
    size_t note_count;
    size_t note_capacity;
} JobResult;

/* What a thread works with. */
typedef struct Desk {
    struct Run *run;
    const WorkSlot *slot;
    Checker checker;
    uint64_t due; /* bytes at hand that have not been counted as done */
} Desk;

typedef struct Run {
    Verifier *verifier;
    const ContentList *list;
    ContentJob *jobs;
    size_t job_count;
    size_t job_capacity;
    Desk *desks;
    size_t desk_count;
    JobResult *results; /* that of a job at its number modulo `ahead` */
    size_t ahead;
    JobResult *long_results;
    LongJob *longs;
    size_t long_count;
    size_t long_capacity;
    size_t *first;     /* the long jobs, the longest one first */
    FileFinding whole; /* the ranges that were taken of a file; the calling thread's */
    _Atomic uint64_t done;
} Run;

/* ---- jobs ---- */

static uint64_t
range_bytes(uint64_t size)
{
    const uint64_t most = RANGE_BYTES * RANGES_MAX;

    return RANGE_BYTES * (size / most + (size % most != 0));
}

static bool
is_incremental(const ContentFile *file)
{
    Oid tablespace;
    const char *path = archive_path(file->path, &tablespace);
    RelFile relation;

    return relfile_parse(path, tablespace, &relation) && relation.incremental;
}

static bool
has_ranges(const ContentFile *file)
{
    if (file->size <= RANGE_BYTES)
        return false;
    if (file->listed == NULL)
        return true;
    return (file->listed->checksum_type == CHECKSUM_NONE ||
            file->listed->checksum_type == CHECKSUM_CRC32C) &&
           !is_incremental(file);
}

static bool
add_job(Run *run, const ContentJob *job, Error *err)
{
    void *jobs = run->jobs;

    if (!mem_grow(&jobs, &run->job_capacity, run->job_count + 1, sizeof *run->jobs, err))
        return false;
    run->jobs = jobs;
    run->jobs[run->job_count++] = *job;
    return true;
}

static bool
add_ranges(Run *run, uint32_t number, uint64_t size, Error *err)
{
    const uint64_t step = range_bytes(size);
    ContentJob job = {.first = number, .end = number + 1, .range = 1};

    for (uint64_t at = 0; at < size; at += step, job.range++) {
        if (!add_job(run, &job, err))
            return false;
        if (size - at <= step)
            break;
    }
    return true;
}

static bool
add_long(Run *run, uint32_t number, uint64_t size, Error *err)
{
    void *longs = run->longs;

    if (!mem_grow(&longs, &run->long_capacity, run->long_count + 1, sizeof *run->longs, err))
        return false;
    run->longs = longs;
    run->longs[run->long_count++] = (LongJob){.job = run->job_count, .size = size};
    return add_job(
        run,
        &(ContentJob){.first = number, .end = number + 1, .long_slot = (uint32_t)run->long_count},
        err);
}

/* The batch that grows at the end of the jobs. */
typedef struct Batch {
    bool open;
    uint32_t files;
    uint64_t bytes;
} Batch;

static bool
add_to_batch(Run *run, Batch *batch, uint32_t number, uint64_t size, Error *err)
{
    const ContentJob job = {.first = number, .end = number + 1};

    if (!batch->open) {
        if (!add_job(run, &job, err))
            return false;
        *batch = (Batch){.open = true};
    }
    run->jobs[run->job_count - 1].end = number + 1;
    batch->files++;
    batch->bytes += size;
    batch->open = batch->files < BATCH_FILES && batch->bytes < BATCH_BYTES;
    return true;
}

static bool
make_jobs(Run *run, Error *err)
{
    const ContentList *list = run->list;
    Batch batch = {.open = false};

    for (size_t i = 0; i < list->count; i++) {
        ContentFile file;
        bool ok;

        if (!list->file(list->ctx, i, &file))
            continue;
        run->verifier->progress.total += file.size;
        if (has_ranges(&file)) {
            batch.open = false;
            ok = add_ranges(run, (uint32_t)i, file.size, err);
        } else if (file.size > RANGE_BYTES) {
            batch.open = false;
            ok = add_long(run, (uint32_t)i, file.size, err);
        } else {
            ok = add_to_batch(run, &batch, (uint32_t)i, file.size, err);
        }
        if (!ok)
            return false;
    }
    return true;
}

static int
compare_longs(const void *a, const void *b)
{
    const LongJob *one = a;
    const LongJob *other = b;

    if (one->size != other->size)
        return one->size > other->size ? -1 : 1;
    return one->job < other->job ? -1 : 1;
}

/* `longs` is not in the order of the slots any more. */
static bool
order_longs(Run *run, Error *err)
{
    if (run->long_count == 0)
        return true;
    run->first = mem_alloc(run->long_count * sizeof *run->first, err);
    run->long_results = mem_zero(run->long_count * sizeof *run->long_results, err);
    if (run->first == NULL || run->long_results == NULL)
        return false;
    qsort(run->longs, run->long_count, sizeof *run->longs, compare_longs);
    for (size_t i = 0; i < run->long_count; i++)
        run->first[i] = run->longs[i].job;
    return true;
}

/* ---- a job, in any thread ---- */

static JobResult *
result_of(const Run *run, size_t number)
{
    const uint32_t long_slot = run->jobs[number].long_slot;

    return long_slot > 0 ? &run->long_results[long_slot - 1] : &run->results[number % run->ahead];
}

static void
count_done(Desk *desk, uint64_t bytes)
{
    uint64_t counted = bytes < desk->due ? bytes : desk->due;

    desk->due -= counted;
    (void)atomic_fetch_add(&desk->run->done, counted);
}

static void
tell_progress(void *ctx)
{
    Run *run = ctx;

    run->verifier->progress.done = atomic_load(&run->done);
    verifier_tell_progress(run->verifier, false);
}

static bool
desk_tick(void *ctx, uint64_t bytes, Error *err)
{
    Desk *desk = ctx;

    if (!stop_check(desk->run->verifier->config->stop, err))
        return false;
    if (atomic_load(desk->slot->ending))
        return error_set_stopped(err);
    count_done(desk, bytes);
    if (desk->run->desk_count == 1) /* there is nobody else to do it */
        tell_progress(desk->run);
    return true;
}

static bool
add_note(JobResult *result, uint32_t number, const FileFinding *finding, Error *err)
{
    void *notes = result->notes;

    if (!mem_grow(&notes, &result->note_capacity, result->note_count + 1, sizeof *result->notes,
                  err))
        return false;
    result->notes = notes;
    result->notes[result->note_count++] = (Note){.number = number, .finding = *finding};
    return true;
}

static bool
is_clean(const FileFinding *finding)
{
    return finding->verdict == FILE_AGREES && finding->pages.tally.bad == 0;
}

static void
sum_pages(VerifySummary *sums, const FileFinding *finding)
{
    sums->pages += finding->pages.tally.checked;
    sums->bad_pages += finding->pages.tally.bad;
}

static bool
check_file(Desk *desk, JobResult *result, uint32_t number, const ContentFile *file, Error *err)
{
    FileFinding finding;

    desk->due = file->size;
    if (!checker_check(&desk->checker, file, &finding, err))
        return false;
    /* It counts with the size that it should have, however much of it was there to be read. */
    count_done(desk, desk->due);
    result->sums.files++;
    result->sums.bytes += file->size;
    sum_pages(&result->sums, &finding);
    return is_clean(&finding) || add_note(result, number, &finding, err);
}

static bool
check_files(Desk *desk, JobResult *result, const ContentJob *job, Error *err)
{
    const ContentList *list = desk->run->list;

    for (uint32_t i = job->first; i < job->end; i++) {
        ContentFile file;

        if (!list->file(list->ctx, i, &file))
            continue;
        if (!stop_check(desk->run->verifier->config->stop, err) ||
            !check_file(desk, result, i, &file, err))
            return false;
    }
    return true;
}

static ContentRange
range_of(const ContentJob *job, uint64_t size)
{
    const uint64_t step = range_bytes(size);
    const uint64_t offset = (job->range - 1) * step;

    return (ContentRange){.offset = offset, .end = size - offset > step ? offset + step : size};
}

static bool
check_range(Desk *desk, JobResult *result, const ContentJob *job, Error *err)
{
    const ContentList *list = desk->run->list;
    ContentFile file;
    ContentRange range;

    (void)list->file(list->ctx, job->first, &file);
    range = range_of(job, file.size);
    desk->due = range.end - range.offset;
    if (!checker_check_range(&desk->checker, &file, &range, &result->range, err))
        return false;
    count_done(desk, desk->due);
    result->sums.files += range.offset == 0;
    result->sums.bytes += range.end - range.offset;
    sum_pages(&result->sums, &result->range);
    return true;
}

static bool
run_job(void *ctx, const WorkSlot *slot, size_t number, Error *err)
{
    Run *run = ctx;
    const ContentJob *job = &run->jobs[number];
    JobResult *result = result_of(run, number);
    Desk *desk = &run->desks[slot->index];

    desk->slot = slot;
    result->sums = (VerifySummary){.files = 0};
    result->note_count = 0;
    return job->range > 0 ? check_range(desk, result, job, err)
                          : check_files(desk, result, job, err);
}

/* ---- its result, in turn, in the calling thread ---- */

static bool
report_file(Run *run, uint32_t number, const FileFinding *finding, Error *err)
{
    const ContentList *list = run->list;
    ContentFile file;

    return !list->file(list->ctx, number, &file) || list->report(list->ctx, &file, finding, err);
}

static bool
take_files(Run *run, const JobResult *result, Error *err)
{
    for (size_t i = 0; i < result->note_count && !run->verifier->reporter.enough; i++) {
        if (!report_file(run, result->notes[i].number, &result->notes[i].finding, err))
            return false;
    }
    return true;
}

static bool
take_range(Run *run, const ContentJob *job, const JobResult *result, Error *err)
{
    ContentFile file;
    ContentRange range;

    (void)run->list->file(run->list->ctx, job->first, &file);
    range = range_of(job, file.size);
    if (range.offset == 0)
        run->whole = result->range;
    else
        finding_add(&run->whole, &result->range, &range);
    if (range.end < file.size)
        return true;
    finding_judge(&run->whole, &file);
    return is_clean(&run->whole) || report_file(run, job->first, &run->whole, err);
}

static WorkNext
take_job(void *ctx, size_t number, Error *err)
{
    Run *run = ctx;
    const ContentJob *job = &run->jobs[number];
    const JobResult *result = result_of(run, number);
    VerifySummary *summary = &run->verifier->summary;
    bool ok = job->range > 0 ? take_range(run, job, result, err) : take_files(run, result, err);

    summary->files += result->sums.files;
    summary->bytes += result->sums.bytes;
    summary->pages += result->sums.pages;
    summary->bad_pages += result->sums.bad_pages;
    if (!ok)
        return WORK_FAILED;
    return run->verifier->reporter.enough ? WORK_ENOUGH : WORK_GO_ON;
}

/* ---- all of it ---- */

static bool
make_desks(Run *run, size_t threads, Error *err)
{
    run->desks = mem_zero(threads * sizeof *run->desks, err);
    if (run->desks == NULL)
        return false;
    run->desk_count = threads;
    for (size_t i = 0; i < threads; i++) {
        Desk *desk = &run->desks[i];

        desk->run = run;
        if (!checker_init(&desk->checker, run->verifier->config->directory, run->list->rules, err))
            return false;
        desk->checker.tick = desk_tick;
        desk->checker.tick_ctx = desk;
    }
    run->ahead = threads * AHEAD_PER_THREAD;
    run->results = mem_zero(run->ahead * sizeof *run->results, err);
    return run->results != NULL;
}

static size_t
thread_count(const Run *run)
{
    size_t jobs = run->verifier->config->jobs;
    size_t threads = jobs > 0 ? jobs : work_processors();

    if (threads > run->job_count)
        threads = run->job_count;
    return threads > 0 ? threads : 1;
}

static bool
run_jobs(Run *run, Error *err)
{
    const Work work = {.count = run->job_count,
                       .threads = run->desk_count,
                       .ahead = run->ahead,
                       .first = run->first,
                       .first_count = run->long_count,
                       .ctx = run,
                       .run = run_job,
                       .take = take_job,
                       .tick = tell_progress,
                       .stop = run->verifier->config->stop};

    if (!work_run(&work, err))
        return false;
    run->verifier->progress.done = atomic_load(&run->done);
    verifier_tell_progress(run->verifier, true);
    return true;
}

static void
run_free(Run *run)
{
    for (size_t i = 0; i < run->desk_count; i++)
        checker_free(&run->desks[i].checker);
    for (size_t i = 0; run->results != NULL && i < run->ahead; i++)
        free(run->results[i].notes);
    for (size_t i = 0; run->long_results != NULL && i < run->long_count; i++)
        free(run->long_results[i].notes);
    free(run->desks);
    free(run->results);
    free(run->long_results);
    free(run->longs);
    free(run->first);
    free(run->jobs);
}

bool
contents_check(Verifier *verifier, const ContentList *list, Error *err)
{
    Run run = {.verifier = verifier, .list = list};
    bool ok;

    atomic_init(&run.done, 0);
    ok = make_jobs(&run, err) && order_longs(&run, err) &&
         make_desks(&run, thread_count(&run), err) && run_jobs(&run, err);
    run_free(&run);
    return ok;
}
