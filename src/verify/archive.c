/*
 * A backup in tar format is a directory of archives. They are read one after the other, the
 * tablespaces in the order of their OIDs, then the data directory, then the WAL, each through a
 * chain of its own:
 *
 *     archive_read -> tar_reader -> member_check? -> wal_scan? -> discard
 *
 * With more than one thread the archive of the WAL, which comes last, is read beside the others.
 *
 * What is wrong with an archive itself ends its reading and is one problem, whatever it is; then
 * the next one is read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "common/file.h"
#include "common/work.h"
#include "verify/internal.h"

/* One archive, and what came of it. */
typedef struct ArchiveReading {
    struct ArchivesRun *run;
    const ArchiveFile *archive;
    int open_errnum; /* why it could not be opened; or 0 */
    Error failure;   /* that ended the reading; or ERR_NONE */
} ArchiveReading;

/* What goes from one archive to the next. */
typedef struct ArchivesRun {
    Verifier *verifier;
    ArchiveList list;
    ArchivePages *pages; /* NULL: nobody looks at them */
    bool threaded;
    bool base_is_whole;         /* an archive of the data directory was read to its end */
    const ArchiveFile *archive; /* that is read */
    uint64_t done;              /* bytes of the archives before it */

    /* ---- that of the WAL, with which the others have nothing to do, in its own thread ---- */
    Thread aside;
    ArchiveReading aside_reading; /* the thread's until it is joined */
    atomic_bool aside_unwanted;
} ArchivesRun;

/* ---- one archive ---- */

static bool
holds_wal(const ArchivesRun *run, const ArchiveFile *archive)
{
    ArchiveKind holder = run->list.has_wal ? ARCHIVE_WAL : ARCHIVE_BASE;

    return run->verifier->wal_scan != NULL && archive->kind == holder;
}

static Sink *
chain_new(const ArchivesRun *run, const ArchiveFile *archive, Error *err)
{
    Verifier *verifier = run->verifier;
    const char *name = archive->name;
    bool is_wal = archive->kind == ARCHIVE_WAL;
    Sink *chain = discard_new(err);

    if (holds_wal(run, archive))
        chain = wal_scan_stage_new(verifier->wal_scan, name, is_wal ? "" : "pg_wal/", chain, err);
    if (!is_wal)
        chain = member_check_new(verifier, name, run->pages, chain, err);
    /* pg_basebackup writes the end blocks that old servers leave out. */
    return tar_reader_new(chain, TAR_END_REQUIRED, err);
}

/* `source` says all but which file it is. */
static void
read_archive(ArchiveReading *reading, ArchiveSource *source)
{
    const ArchivesRun *run = reading->run;
    const ArchiveFile *archive = reading->archive;
    char *path = path_join(run->verifier->config->directory, archive->name, &reading->failure);
    Error failure = ERROR_INIT;

    if (path == NULL)
        return;
    source->name = archive->name;
    source->tablespace = archive->tablespace;
    source->fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (source->fd < 0)
        reading->open_errnum = errno;
    else if (!archive_read(source, chain_new(run, archive, &failure), &failure))
        reading->failure = failure;
    file_close_quietly(source->fd);
    free(path);
}

/* Everything else that can end the reading is an Error of ours. */
static bool
is_of_the_archive(const Error *err)
{
    return err->code == ERR_FORMAT || err->code == ERR_UNSUPPORTED || err->code == ERR_SYSTEM;
}

static bool
take_reading(const ArchiveReading *reading, Error *err)
{
    ArchivesRun *run = reading->run;
    Reporter *reporter = &run->verifier->reporter;
    const char *name = reading->archive->name;
    Problem problem = {.kind = PROBLEM_UNREADABLE, .path = name};
    char reason[ERRNO_TEXT_SIZE];

    if (reading->open_errnum != 0)
        return report(reporter, &problem, err, "could not open file \"%s\": %s", name,
                      errno_text(reading->open_errnum, reason));
    if (reading->failure.code == ERR_NONE) {
        run->base_is_whole = run->base_is_whole || reading->archive->kind == ARCHIVE_BASE;
        return true;
    }
    if (!is_of_the_archive(&reading->failure)) {
        *err = reading->failure;
        return false;
    }
    return reporter->enough || report(reporter, &problem, err, "%s", reading->failure.message);
}

/* Were it to grow meanwhile, it would still count with the size that is part of the total. */
static ReadNext
count_progress(void *ctx, size_t bytes, Error *err)
{
    const ArchivesRun *run = ctx;
    VerifyProgress *progress = &run->verifier->progress;
    uint64_t end = run->done + run->archive->size;

    progress->done = bytes < end - progress->done ? progress->done + bytes : end;
    verifier_tell_progress(run->verifier, false);
    if (run->verifier->reporter.enough)
        return READ_ENOUGH;
    return stop_check(run->verifier->config->stop, err) ? READ_GO_ON : READ_FAILED;
}

static bool
read_in_turn(ArchivesRun *run, Error *err)
{
    ArchiveReading reading = {.run = run, .archive = run->archive};
    ArchiveSource source = {.threaded = run->threaded, .passed = count_progress, .ctx = run};

    read_archive(&reading, &source);
    return take_reading(&reading, err);
}

/* ---- the WAL's beside the others ---- */

static ReadNext
check_wanted(void *ctx, size_t bytes, Error *err)
{
    const ArchivesRun *run = ctx;

    (void)bytes;
    if (atomic_load(&run->aside_unwanted))
        return READ_ENOUGH;
    return stop_check(run->verifier->config->stop, err) ? READ_GO_ON : READ_FAILED;
}

static void
read_aside(void *arg)
{
    ArchivesRun *run = arg;
    ArchiveSource source = {.passed = check_wanted, .ctx = run};

    read_archive(&run->aside_reading, &source);
}

/* If there is one, and only one: it is the last of all. */
static bool
start_aside(ArchivesRun *run, Error *err)
{
    const ArchiveList *list = &run->list;
    const ArchiveFile *last;

    if (!run->threaded || run->verifier->wal_scan == NULL || list->count < 2)
        return true;
    last = &list->files[list->count - 1];
    if (last->kind != ARCHIVE_WAL || last[-1].kind == ARCHIVE_WAL)
        return true;
    run->aside_reading = (ArchiveReading){.run = run, .archive = last};
    return thread_start(&run->aside, read_aside, run, err);
}

static bool
take_aside(ArchivesRun *run, Error *err)
{
    thread_join(&run->aside);
    return take_reading(&run->aside_reading, err);
}

static void
end_aside(ArchivesRun *run)
{
    atomic_store(&run->aside_unwanted, true);
    thread_join(&run->aside);
}

/* ---- all of them ---- */

/* Nobody asks for the WAL: then its archive stays closed, as pg_verifybackup leaves it. */
static bool
is_read(const Verifier *verifier, const ArchiveFile *archive)
{
    return archive->kind != ARCHIVE_WAL || verifier->wal_scan != NULL;
}

static bool
read_next(ArchivesRun *run, const ArchiveFile *archive, Error *err)
{
    run->archive = archive;
    return stop_check(run->verifier->config->stop, err) &&
           (archive == run->aside_reading.archive ? take_aside(run, err) : read_in_turn(run, err));
}

static bool
read_in_order(ArchivesRun *run, Error *err)
{
    Verifier *verifier = run->verifier;

    for (size_t i = 0; i < run->list.count && !verifier->reporter.enough; i++) {
        const ArchiveFile *archive = &run->list.files[i];

        if (!is_read(verifier, archive))
            continue;
        if (!read_next(run, archive, err))
            return false;
        if (verifier->reporter.enough)
            break;
        /* It counts whole, however much of it was there to be read. */
        run->done += archive->size;
        verifier->progress.done = run->done;
    }
    verifier_tell_progress(verifier, true);
    return true;
}

static bool
read_archives(ArchivesRun *run, Error *err)
{
    bool ok = start_aside(run, err) && read_in_order(run, err);

    end_aside(run);
    return ok;
}

static void
add_total(ArchivesRun *run)
{
    for (size_t i = 0; i < run->list.count; i++) {
        if (is_read(run->verifier, &run->list.files[i]))
            run->verifier->progress.total += run->list.files[i].size;
    }
}

/* What only all of them together tell. */
static bool
conclude(ArchivesRun *run, Error *err)
{
    Verifier *verifier = run->verifier;

    /* Which directories there are is not known without it: its files that are missing are told. */
    if (!run->base_is_whole)
        verifier->directories = UINT32_MAX;
    if (verifier->wal_scan != NULL)
        verifier->summary.wal_bytes = wal_scan_intact(verifier->wal_scan);
    return verifier->reporter.enough || run->pages == NULL ||
           archive_pages_report(run->pages, verifier, err);
}

static bool
check_archives(ArchivesRun *run, Error *err)
{
    Verifier *verifier = run->verifier;

    if (!archive_list_read(&run->list, verifier, err))
        return false;
    if (verifier->reporter.enough)
        return true;
    add_total(run);
    return read_archives(run, err) && conclude(run, err);
}

static bool
prepare(ArchivesRun *run, Error *err)
{
    Verifier *verifier = run->verifier;
    const VerifyConfig *config = verifier->config;

    if (!config->skip_wal && config->wal_directory == NULL) {
        verifier->wal_scan = wal_scan_new(verifier->manifest, err);
        if (verifier->wal_scan == NULL)
            return false;
    }
    if (!config->skip_checksums && !config->skip_pages) {
        run->pages = archive_pages_new(verifier_wal_start(verifier), err);
        if (run->pages == NULL)
            return false;
    }
    return verifier_open_digests(verifier, err);
}

bool
archives_threaded(const VerifyConfig *config)
{
    return config->jobs == 0 ? work_processors() > 1 : config->jobs > 1;
}

bool
archives_check(Verifier *verifier, Error *err)
{
    ArchivesRun run = {.verifier = verifier,
                       .list = ARCHIVE_LIST_INIT,
                       .threaded = archives_threaded(verifier->config)};
    bool ok = prepare(&run, err) && (verifier->reporter.enough || check_archives(&run, err));

    archive_pages_free(run.pages);
    archive_list_free(&run.list);
    return ok;
}
