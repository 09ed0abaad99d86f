/*
 * Base backups as archives, with every call failing once and from some call on.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "backup_fault.h"
#include "protocol/peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- the faults ---- */

/* A few files instead of many: three archives and the manifest. */
static const FaultPlan archive_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 60},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 60},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 5},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 5},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 4},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 4},
    {.kind = FAULT_WRITE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 4},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 4},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 8},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 8},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 1},
    {.kind = FAULT_MAKE, .errnum = ENOSPC, .least = 3},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 5},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .lasting = true, .least = 1},
    {.kind = FAULT_WAIT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_RESOURCE, .errnum = EMFILE, .least = 1},
};

/* The thread that writes must be there; of those that compress as many as can be had. */
static const FaultPlan thread_plan = {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 1};
static const FaultPlan gzip_thread_plan = {
    .kind = FAULT_THREAD, .errnum = EAGAIN, .outcome = FAULT_EITHER, .least = 1};

/* How much has been written by then is a matter of threads. */
static const FaultPlan early_removal_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 70},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 70},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 3},
    {.kind = FAULT_REMOVE, .errnum = EACCES, .lasting = true, .least = 2},
    {.kind = FAULT_RESOURCE, .errnum = EMFILE, .least = 4},
};

/* ---- the tests ---- */

static void
test_archives(void **state)
{
    BackupFault *fixture = *state;

    fixture->options.format = FORMAT_TAR;
    backup_fault_sweep(fixture, archive_plans, COUNT(archive_plans));
    backup_fault_sweep(fixture, &thread_plan, 1);
    fixture->options.wal_method = WAL_STREAM;
    backup_fault_sweep(fixture, archive_plans, COUNT(archive_plans));
    backup_fault_sweep(fixture, &thread_plan, 1);
}

static void
test_archives_synced_as_a_whole(void **state)
{
    static const FaultPlan sync_plans[] = {
        {.kind = FAULT_SYNC, .errnum = EIO, .least = 4},
        {.kind = FAULT_OPEN, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 5},
    };
    BackupFault *fixture = *state;

    fixture->options.format = FORMAT_TAR;
    fixture->options.sync = SYNC_SYNCFS;
    fixture->options.wal_method = WAL_STREAM;
    backup_fault_sweep(fixture, sync_plans, COUNT(sync_plans));
}

static void
test_compressed_archives(void **state)
{
    static const CompressionMethod methods[] = {COMPRESSION_GZIP, COMPRESSION_LZ4,
                                                COMPRESSION_ZSTD};
    BackupFault *fixture = *state;
    Error err = ERROR_INIT;

    fixture->options.format = FORMAT_TAR;
    for (size_t i = 0; i < COUNT(methods); i++) {
        assert_true(compression_parse(methods[i], NULL, &fixture->options.compression, &err));
        fixture->options.wal_method = i == 1 ? WAL_STREAM : WAL_NONE;
        backup_fault_sweep(fixture, archive_plans, COUNT(archive_plans));
        backup_fault_sweep(fixture, i == 0 ? &gzip_thread_plan : &thread_plan, 1);
    }
}

/* As many stages as there can be. */
static void
test_archives_for_a_standby(void **state)
{
    BackupFault *fixture = *state;

    fixture->options.format = FORMAT_TAR;
    fixture->options.write_recovery = true;
    fixture->options.server_compression = "gzip";
    backup_fault_sweep(fixture, archive_plans, COUNT(archive_plans));
    backup_fault_sweep(fixture, &gzip_thread_plan, 1);
}

/* With a slot that the run has made, which goes too. */
static void
test_early_removal(void **state)
{
    BackupFault *fixture = *state;

    fixture->spoiler = SPOILER_MANIFEST;
    fixture->options.wal_method = WAL_STREAM;
    fixture->options.slot = "mine";
    fixture->options.create_slot = true;
    fixture->options.format = FORMAT_TAR;
    backup_fault_sweep(fixture, early_removal_plans, COUNT(early_removal_plans));
}

/* May be the last copy there is. */
static void
test_damaged_pages(void **state)
{
    static const FaultPlan mark_plans[] = {
        {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 60},
        {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 6},
        {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 5},
        {.kind = FAULT_SYNC, .errnum = EIO, .least = 10},
        {.kind = FAULT_CLOSE, .errnum = EIO, .least = 6},
        {.kind = FAULT_MODE, .errnum = EPERM, .least = 6},
    };
    BackupFault *fixture = *state;

    fixture->spoiler = SPOILER_PAGES;
    fixture->options.format = FORMAT_TAR;
    backup_fault_sweep(fixture, mark_plans, COUNT(mark_plans));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        BACKUP_FAULT_TEST(test_archives),
        BACKUP_FAULT_TEST(test_archives_synced_as_a_whole),
        BACKUP_FAULT_TEST(test_compressed_archives),
        BACKUP_FAULT_TEST(test_archives_for_a_standby),
        BACKUP_FAULT_TEST(test_early_removal),
        BACKUP_FAULT_TEST(test_damaged_pages),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("fault_basebackup_tar", tests, NULL, NULL);
}
