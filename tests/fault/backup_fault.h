/*
 * backup fault: base backups from a scripted server in which calls fail, for the tests of faults.
 *
 * A test changes the options of its fixture and sweeps. Each run looks at what is left: a backup
 * that succeeded is complete and on disk, and backup_manifest got its name only then; one that
 * failed has left nothing, or says what it could not remove.
 */
#ifndef PGSTOW_TESTS_BACKUP_FAULT_H
#define PGSTOW_TESTS_BACKUP_FAULT_H

#include "basebackup/basebackup.h"
#include "fault.h"
#include "support/fake_backup.h"
#include "support/temp_dir.h"

#define BACKUP_FAULT_TABLE_SIZE ((size_t)20000)

typedef enum TargetState {
    TARGET_MISSING, /* it and the two directories above it are made */
    TARGET_EMPTY    /* it is there, and stays */
} TargetState;

/* What makes every run fail, whatever else does. */
typedef enum Spoiler {
    SPOILER_NONE,
    SPOILER_MANIFEST, /* it has one file more: all has come, and then it fails */
    SPOILER_NAME,     /* the manifest's is taken: all is on disk, and then it fails */
    SPOILER_PAGES     /* the server says that some are damaged: what came is kept */
} Spoiler;

typedef struct BackupFault {
    TempDir dir;
    FakeBackup fake;
    WireScript scripts[3]; /* of the backup, of the WAL, and of dropping a slot */
    uint8_t table[BACKUP_FAULT_TABLE_SIZE];

    /* ---- what the run shall be ---- */
    BackupOptions options;
    TargetState target_state;
    Spoiler spoiler;

    /* ---- the paths ---- */
    const char *target;
    const char *parent;
    const char *space;  /* where the tablespace is to go */
    const char *origin; /* where it is on the server */
    const char *wal;    /* of --waldir */
    const char *manifest;
    const char *manifest_tmp;

    /* ---- what the run has told ---- */
    char info[4096];
    char published_before[512]; /* what was not on disk when the manifest got its name */
} BackupFault;

/* For cmocka: *state is a fixture of a plain backup, synced, without WAL. */
int backup_fault_set_up(void **state);
int backup_fault_tear_down(void **state);

/* Run with each of these faults. */
void backup_fault_sweep(BackupFault *fixture, const FaultPlan *plans, size_t count);

#define BACKUP_FAULT_TEST(function)                                                                \
    cmocka_unit_test_setup_teardown(function, backup_fault_set_up, backup_fault_tear_down)

#endif
