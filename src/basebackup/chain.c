/*
 * The stages between the server and the disk. Every kind of backup is one column of them:
 *
 *   plain          decompress? -> tar_reader -> guard? -> pages? -> ledger? -> recovery? -> extract
 *   tar as it is   terminator? -> tee( handoff => compress? -> file_sink ;
 *                                      decompress? -> tar_reader -> pages? -> ledger? -> discard )
 *   tar, rewritten decompress? -> tar_reader -> guard? -> pages? -> ledger? -> recovery?
 *                  -> manifest? -> tar_writer -> handoff => compress? -> file_sink
 *   elsewhere      discard
 *
 * What stands in front of the handoff runs in the thread that receives: it costs a small part of
 * what the server needs to send. Compressing and the disk are behind it. extract writes with
 * threads of its own and has no handoff in front of it, which would only copy what it copies.
 */
#include <unistd.h>

#include "basebackup/internal.h"
#include "common/work.h"

/* Of members that the stock tools put into an archive. */
#define INJECTED_UID 04000
#define INJECTED_GID 02000

/* The disk is slow: nothing to tell the server, but a stop must still end the wait. */
static bool
while_full(void *ctx, Error *err)
{
    return stop_check(((const ChainConfig *)ctx)->stop, err);
}

static Sink *
add_handoff(Sink *next, const ChainConfig *config, Sink **ret_handoff, Error *err)
{
    const HandoffConfig handoff = {.while_full = while_full, .ctx = (void *)(uintptr_t)config};

    *ret_handoff = handoff_new(next, &handoff, err);
    return *ret_handoff;
}

/* ---- the last stages ---- */

static const char *
root_of(void *ctx, Oid tablespace)
{
    const Place *place = layout_place(((const ChainConfig *)ctx)->layout, tablespace);

    return place == NULL ? NULL : place->directory;
}

static const char *
link_target_of(void *ctx, Oid tablespace, const char *target)
{
    return layout_link_target(((const ChainConfig *)ctx)->layout, tablespace, target);
}

static Sink *
directories(const ChainConfig *config, Error *err)
{
    const ExtractConfig extract = {
        .root = root_of,
        .link_target = link_target_of,
        .ctx = (void *)(uintptr_t)config,
        .wal_directory = config->options->wal_directory,
        .sync = config->options->sync,
        .directory_mode = config->directory_mode,
        .while_full = while_full,
    };

    return extract_new(&extract, err);
}

static Sink *
files(const ChainConfig *config, Error *err)
{
    const Compression compression =
        compression_in_parallel(&config->plan->leaving, work_processors());
    const FileSinkConfig file = {
        .directory = config->plan->to_stdout ? NULL : config->options->directory,
        .fd = STDOUT_FILENO,
        .fd_name = "standard output",
        .file_mode = config->file_mode,
        .sync = config->options->sync,
        .stop = config->stop,
    };

    return compress_new(file_sink_new(&file, err), &compression, err);
}

/* ---- what looks at files as they pass ---- */

static Sink *
add_checks(Sink *next, const ChainConfig *config, Error *err)
{
    if (config->ledger != NULL)
        next = ledger_stage_new(config->ledger, next, err);
    if (config->pages != NULL)
        next = page_check_new(next, config->pages, config->tally, err);
    return next;
}

/* The names of what we put beside the files are free unless we put something there. */
static Sink *
add_guard(Sink *next, const ChainConfig *config, Error *err)
{
    const bool digests_there = config->plan->page_digests && config->plan->format == FORMAT_PLAIN;

    if (config->ledger == NULL)
        return next;
    return manifest_guard_new(next, digests_there ? GUARD_PAGE_DIGESTS_TOO : GUARD_MANIFEST, err);
}

static Sink *
add_parser(Sink *next, const ChainConfig *config, Error *err)
{
    TarEnd end = config->terminated ? TAR_END_REQUIRED : TAR_END_OPTIONAL;

    return decompress_new(tar_reader_new(next, end, err), config->plan->arriving, err);
}

/* ---- the columns ---- */

static Sink *
add_recovery(Sink *next, const ChainConfig *config, Error *err)
{
    if (config->recovery == NULL)
        return next;
    return recovery_inject_new(next, config->recovery, err);
}

static Sink *
plain_chain(const ChainConfig *config, Error *err)
{
    Sink *sink = directories(config, err);

    sink = add_recovery(sink, config, err);
    sink = add_checks(sink, config, err);
    return add_parser(add_guard(sink, config, err), config, err);
}

static Sink *
rewriting_chain(const ChainConfig *config, Sink **ret_handoff, Error *err)
{
    const TarOwner owner = {.uid = INJECTED_UID, .gid = INJECTED_GID};
    Sink *sink = add_handoff(files(config, err), config, ret_handoff, err);

    sink = tar_writer_new(sink, &owner, err);
    if (config->plan->in_stream)
        sink = manifest_inject_new(sink, config->manifest, err);
    sink = add_recovery(sink, config, err);
    sink = add_checks(sink, config, err);
    return add_parser(add_guard(sink, config, err), config, err);
}

static Sink *
copying_chain(const ChainConfig *config, Sink **ret_handoff, Error *err)
{
    ChainConfig ended = *config;
    Sink *sink = add_handoff(files(config, err), config, ret_handoff, err);

    ended.terminated = true;
    if (config->ledger != NULL || config->pages != NULL) {
        Sink *checks = add_checks(discard_new(err), config, err);

        sink = tee_new(sink, add_parser(checks, &ended, err), err);
    }
    return config->terminated ? sink : tar_terminator_new(sink, err);
}

Sink *
chain_new(const ChainConfig *config, Sink **ret_handoff, Error *err)
{
    *ret_handoff = NULL;
    if (config->plan->to_server)
        return discard_new(err);
    if (config->plan->format == FORMAT_PLAIN)
        return plain_chain(config, err);
    if (config->plan->rewrite)
        return rewriting_chain(config, ret_handoff, err);
    return copying_chain(config, ret_handoff, err);
}
