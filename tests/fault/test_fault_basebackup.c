/*
 * Base backups into directories, of every kind, with every call failing once and from some call on.
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

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 70},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 70},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 12},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 5},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 5},
    {.kind = FAULT_WRITE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 6},
    {.kind = FAULT_CLOSE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 6},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 1},
    {.kind = FAULT_MAKE, .errnum = ENOSPC, .least = 6},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 6},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 1},
    {.kind = FAULT_WAIT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_RESOURCE, .errnum = EMFILE, .least = 4},
};

/* What only a durable backup does. */
static const FaultPlan durable_plans[] = {
    /* A directory that holds ours but cannot be read: the whole file system is synced. */
    {.kind = FAULT_OPEN, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 12},
    {.kind = FAULT_READ, .errnum = EIO, .least = 8},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 14},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 14},
};

/* What can fail while the backup is taken back. */
static const FaultPlan removal_plans[] = {
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 12},
    {.kind = FAULT_READ, .errnum = EIO, .least = 8},
    {.kind = FAULT_READ, .errnum = EIO, .lasting = true, .least = 8},
    {.kind = FAULT_REMOVE, .errnum = EACCES, .least = 12},
    {.kind = FAULT_REMOVE, .errnum = EACCES, .lasting = true, .least = 12},
    {.kind = FAULT_CLOSE, .errnum = EIO, .least = 6},
};

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
test_without_wal(void **state)
{
    backup_fault_sweep(*state, plans, COUNT(plans));
    backup_fault_sweep(*state, durable_plans, COUNT(durable_plans));
}

static void
test_without_wal_no_sync(void **state)
{
    BackupFault *fixture = *state;

    fixture->options.sync = SYNC_NONE;
    backup_fault_sweep(fixture, plans, COUNT(plans));
}

static void
test_existing_directory(void **state)
{
    BackupFault *fixture = *state;

    fixture->target_state = TARGET_EMPTY;
    backup_fault_sweep(fixture, plans, COUNT(plans));
    backup_fault_sweep(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_no_clean(void **state)
{
    BackupFault *fixture = *state;

    fixture->options.no_clean = true;
    backup_fault_sweep(fixture, plans, COUNT(plans));
    backup_fault_sweep(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_with_wal(void **state)
{
    BackupFault *fixture = *state;

    fixture->options.wal_method = WAL_STREAM;
    backup_fault_sweep(fixture, plans, COUNT(plans));
    backup_fault_sweep(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_with_wal_directory(void **state)
{
    static const FaultPlan wal_plans[] = {
        {.kind = FAULT_MAKE, .errnum = ENOSPC, .least = 9},
        {.kind = FAULT_MODE, .errnum = EPERM, .least = 9},
        {.kind = FAULT_SYNC, .errnum = EIO, .least = 20},
    };
    BackupFault *fixture = *state;

    fixture->options.wal_directory = fixture->wal;
    backup_fault_sweep(fixture, plans, COUNT(plans));
    backup_fault_sweep(fixture, durable_plans, COUNT(durable_plans));
    fixture->options.wal_method = WAL_STREAM;
    backup_fault_sweep(fixture, wal_plans, COUNT(wal_plans));
}

static void
test_for_a_standby(void **state)
{
    BackupFault *fixture = *state;

    fixture->options.write_recovery = true;
    fixture->options.server_compression = "lz4";
    backup_fault_sweep(fixture, plans, COUNT(plans));
    backup_fault_sweep(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_with_page_digests(void **state)
{
    static const FaultPlan rename_plans[] = {
        {.kind = FAULT_RENAME, .errnum = EIO, .least = 2},
        {.kind = FAULT_RENAME, .errnum = EIO, .lasting = true, .least = 1},
    };
    BackupFault *fixture = *state;

    fixture->options.page_digests = true;
    backup_fault_sweep(fixture, plans, COUNT(plans));
    backup_fault_sweep(fixture, durable_plans, COUNT(durable_plans));
    backup_fault_sweep(fixture, rename_plans, COUNT(rename_plans));
    fixture->options.no_clean = true;
    backup_fault_sweep(fixture, rename_plans, COUNT(rename_plans));
    fixture->options.no_clean = false;
    fixture->spoiler = SPOILER_NAME;
    backup_fault_sweep(fixture, removal_plans, COUNT(removal_plans));
}

static void
test_incremental(void **state)
{
    static const FaultPlan upload_plans[] = {
        {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 70},
        {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 12},
        {.kind = FAULT_READ, .errnum = EIO, .least = 2},
        {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 2},
    };
    BackupFault *fixture = *state;

    temp_dir_write(&fixture->dir, "earlier", "an earlier manifest\n", 20);
    fixture->options.incremental = temp_dir_path(&fixture->dir, "earlier");
    backup_fault_sweep(fixture, upload_plans, COUNT(upload_plans));
}

static void
test_removal(void **state)
{
    static const FaultPlan memory_plans[] = {
        {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 70},
        {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 70},
    };
    static const FaultPlan wal_plans[] = {
        {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 12},
        {.kind = FAULT_REMOVE, .errnum = EACCES, .least = 12},
        {.kind = FAULT_REMOVE, .errnum = EACCES, .lasting = true, .least = 12},
    };
    BackupFault *fixture = *state;

    fixture->spoiler = SPOILER_NAME;
    backup_fault_sweep(fixture, memory_plans, COUNT(memory_plans));
    backup_fault_sweep(fixture, removal_plans, COUNT(removal_plans));
    fixture->target_state = TARGET_EMPTY;
    backup_fault_sweep(fixture, removal_plans, COUNT(removal_plans));
    fixture->target_state = TARGET_MISSING;
    fixture->options.wal_method = WAL_STREAM;
    fixture->options.wal_directory = fixture->wal;
    backup_fault_sweep(fixture, wal_plans, COUNT(wal_plans));
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
    backup_fault_sweep(fixture, mark_plans, COUNT(mark_plans));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        BACKUP_FAULT_TEST(test_without_wal),        BACKUP_FAULT_TEST(test_without_wal_no_sync),
        BACKUP_FAULT_TEST(test_existing_directory), BACKUP_FAULT_TEST(test_no_clean),
        BACKUP_FAULT_TEST(test_with_wal),           BACKUP_FAULT_TEST(test_with_wal_directory),
        BACKUP_FAULT_TEST(test_for_a_standby),      BACKUP_FAULT_TEST(test_with_page_digests),
        BACKUP_FAULT_TEST(test_incremental),        BACKUP_FAULT_TEST(test_removal),
        BACKUP_FAULT_TEST(test_early_removal),      BACKUP_FAULT_TEST(test_damaged_pages),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("fault_basebackup", tests, NULL, NULL);
}
