/*
 * Work that is split into jobs: they run side by side in threads, and what came of them is taken by
 * the calling thread in their order, so that it does not depend on how many threads there were.
 *
 * Jobs are begun in their order, but for long ones, which may be begun before all others so that
 * none of them is left alone at the end. Of the others at most `ahead` are begun but not taken,
 * which bounds the memory that results need. The first failure in the order of the jobs is the one
 * that work_run returns.
 * Where threads cannot be had, fewer do the work, or the calling thread alone.
 */
#ifndef PGSTOW_WORK_H
#define PGSTOW_WORK_H

#include <stdatomic.h>
#include <stddef.h>

#include "common/runtime.h"

/* One that runs jobs, one at a time. */
typedef struct WorkSlot {
    size_t index;              /* below `threads`: for what is made once and used by many jobs */
    const atomic_bool *ending; /* nobody wants the result any more: jobs may end early with any
                                * Error, which goes nowhere */
} WorkSlot;

typedef enum WorkNext { WORK_GO_ON, WORK_ENOUGH, WORK_FAILED } WorkNext;

typedef struct Work {
    size_t count;   /* jobs */
    size_t threads; /* 1: all is done in the calling thread; never more than jobs are started */
    size_t ahead;   /* 0: four for each thread */
    const size_t *first; /* jobs that are begun before all others, in this order, each once */
    size_t first_count;
    void *ctx;
    /* In any thread. */
    bool (*run)(void *ctx, const WorkSlot *slot, size_t job, Error *err);
    /* In the calling thread: ENOUGH ends the work with success. */
    WorkNext (*take)(void *ctx, size_t job, Error *err);
    /* In the calling thread, about ten times a second while it waits; NULL: not. */
    void (*tick)(void *ctx);
    const Stop *stop; /* ends it with ERR_STOPPED; may be NULL */
} Work;

/* All threads have ended when it returns. */
bool work_run(const Work *work, Error *err) MUST_USE;

/* Processors that this process may use, at least 1. */
size_t work_processors(void);

#endif
