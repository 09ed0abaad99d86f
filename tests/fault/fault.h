/*
 * Faults: the n-th call of a kind fails, for every n.
 *
 *   fault_sweep(sweeps, COUNT(sweeps), run, &fixture);
 *
 * calls `run` with the first, second, third, ... call of a kind failing until none does any more.
 * `run` sets up, does what is tested between fault_begin and fault_end, looks at what is left and
 * says whether the fault had its turn.
 *
 * The linker leads our libraries' calls here (--wrap, CMakeLists.txt); what libpq, OpenSSL and libc
 * call themselves passes by. Only threads under test count: the one between fault_begin and
 * fault_end and those that it starts, not a wire server's. Syncs do not reach the disk, which would
 * only take time: disk.h keeps account of them instead.
 *
 * Assertions are cmocka's and name the fault.
 */
#ifndef PGSTOW_TESTS_FAULT_H
#define PGSTOW_TESTS_FAULT_H

#include <stddef.h>

#include "common/error.h"

typedef enum FaultKind {
    FAULT_MEMORY,   /* malloc, calloc, realloc, strdup */
    FAULT_OPEN,     /* files and directories */
    FAULT_READ,     /* files and directories */
    FAULT_WRITE,    /* files */
    FAULT_SYNC,     /* fsync, fdatasync, syncfs */
    FAULT_CLOSE,    /* reports a failure, but closes, as Linux does */
    FAULT_RENAME,   /* rename */
    FAULT_MAKE,     /* directories and links */
    FAULT_REMOVE,   /* unlink, rmdir */
    FAULT_STAT,     /* in all its forms */
    FAULT_MODE,     /* chmod, fchmod */
    FAULT_TRUNCATE, /* ftruncate */
    FAULT_THREAD,   /* pthread_create */
    FAULT_WAIT,     /* poll */
    FAULT_RESOURCE, /* eventfd, getrandom, realpath, duplicates of descriptors */
    FAULT_RESERVE,  /* fallocate */
    FAULT_KIND_COUNT
} FaultKind;

/* Instead of an errno: reads and writes give half of what was wanted. */
#define FAULT_SHORT (-1)

/* What a fault makes of a run. */
typedef enum FaultOutcome {
    FAULT_FAILS,  /* it fails */
    FAULT_PASSES, /* it succeeds nevertheless */
    FAULT_EITHER  /* it depends on the call: some results do not matter */
} FaultOutcome;

typedef struct FaultPlan {
    FaultKind kind;
    int errnum; /* or FAULT_SHORT */
    FaultOutcome outcome;
    bool lasting; /* all later calls fail too */
    size_t least; /* as many calls there must be: a sweep over none proves nothing */
    size_t at;    /* this call, from 1; set by fault_sweep */
} FaultPlan;

/* The call that failed first. */
typedef struct FaultHit {
    bool fired;
    const char *call;
    char path[512]; /* of the file, as far as there is one */
    bool writable;  /* FAULT_CLOSE: it was a regular file with a name, open for writing */
} FaultHit;

void fault_sweep(const FaultPlan *plans, size_t count,
                 bool (*run)(void *ctx, const FaultPlan *plan), void *ctx);

/* The calling thread is under test from here on; `plan` is borrowed until fault_end. */
void fault_begin(const FaultPlan *plan);
void fault_end(FaultHit *ret_hit);

/* For callbacks of a test, whose own calls are not to be counted. */
bool fault_suspend(void);
void fault_resume(bool before);

/*
 * How the run ended: as the plan foresees, with one Error that says what failed, and with the file
 * where there is one. Fails the test when not.
 */
void fault_assert_ending(const FaultPlan *plan, const FaultHit *hit, bool ok, const Error *err);

/*
 * That no memory, no descriptor and no thread is left of the run. After whatever else has opened
 * descriptors since fault_begin, like a wire server, is gone.
 */
void fault_assert_nothing_left(void);

/* An assertion that says which fault it was. */
void fault_assert(bool ok, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* How many calls of a kind there were since fault_begin. */
size_t fault_calls(FaultKind kind);

/* Called by the thread under test before every call of a kind that changes the disk: OPEN, WRITE,
 * SYNC, RENAME, MAKE, REMOVE. NULL: nobody. */
typedef struct FaultWatch {
    void (*before)(void *ctx, FaultKind kind, const char *path);
    void *ctx;
} FaultWatch;

void fault_watch(const FaultWatch *watch);

#endif
