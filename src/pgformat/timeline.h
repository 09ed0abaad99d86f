/*
 * Timeline history files (PostgreSQL: access/transam/timeline.c; documentation: "Timelines").
 *
 * One line for each timeline that the file's own descends from, oldest first: its number, the LSN
 * where the next one forks off, and a reason; comments begin with '#'. Pure. A TimelineHistory owns
 * its forks.
 */
#ifndef PGSTOW_TIMELINE_H
#define PGSTOW_TIMELINE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/pgtypes.h"

typedef struct TimelineFork {
    TimeLineID timeline;
    Lsn end; /* the next one of the history begins here */
} TimelineFork;

typedef struct TimelineHistory {
    TimeLineID timeline; /* the newest, whose history it is; it has no end */
    TimelineFork *forks; /* its ancestors, oldest first */
    size_t count;
} TimelineHistory;

/*
 * `text` is the file of `timeline`; empty text is the history of a timeline without ancestors (the
 * first, or one made by pg_resetwal). ERR_FORMAT, as the server sees it: a line that does not begin
 * with a number and an LSN, numbers that do not increase or that are not below `timeline`.
 */
bool timeline_history_parse(Span text, TimeLineID timeline, TimelineHistory *ret_history,
                            Error *err) MUST_USE;
void timeline_history_free(TimelineHistory *history);

/* Whether `timeline` is in the history. *ret_end is where it ends, LSN_INVALID for the newest;
 * *ret_next the timeline that follows it, 0 for the newest. */
bool timeline_history_find(const TimelineHistory *history, TimeLineID timeline, Lsn *ret_end,
                           TimeLineID *ret_next);

/* The timeline that the byte at `lsn` belongs to. */
TimeLineID timeline_history_at(const TimelineHistory *history, Lsn lsn);

#endif
