/*
 * A timeline history file: what is accepted says line by line what scanf finds there, as the server
 * does it, and it holds together; what is refused is an error of its format.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "pgformat/timeline.h"

/* The server reads longer lines in pieces. */
#define LINE_MAX_SERVER 1023

static void
must(bool holds)
{
    if (!holds)
        abort();
}

/* The line as the server has it, without its comments; false: it is skipped. */
static bool
server_line(const uint8_t *data, size_t len, char line[LINE_MAX_SERVER + 1])
{
    memcpy(line, data, len);
    line[len] = '\0';
    line += strspn(line, " \t\n\v\f\r");
    return *line != '\0' && *line != '#';
}

/* Every line that counts is the next fork. */
static void
compare_lines(const TimelineHistory *history, const uint8_t *data, size_t size)
{
    size_t count = 0;

    while (size > 0) {
        const uint8_t *newline = memchr(data, '\n', size);
        size_t len = newline == NULL ? size : (size_t)(newline - data) + 1;
        char line[LINE_MAX_SERVER + 1];
        unsigned timeline;
        unsigned high;
        unsigned low;

        if (len > LINE_MAX_SERVER)
            return;
        if (server_line(data, len, line)) {
            must(sscanf(line, "%u\t%X/%X", &timeline, &high, &low) == 3);
            must(count < history->count);
            must(history->forks[count].timeline == timeline);
            must(history->forks[count].end == ((Lsn)high << 32 | low));
            count++;
        }
        data += len;
        size -= len;
    }
    must(count == history->count);
}

static void
check_order(const TimelineHistory *history)
{
    for (size_t i = 0; i < history->count; i++) {
        TimeLineID next =
            i + 1 < history->count ? history->forks[i + 1].timeline : history->timeline;
        TimeLineID ret_next;
        Lsn end;

        must(history->forks[i].timeline < next);
        must(timeline_history_find(history, history->forks[i].timeline, &end, &ret_next));
        must(end == history->forks[i].end && ret_next == next);
    }
}

/* Whoever owns a byte began at or before it. */
static void
check_at(const TimelineHistory *history)
{
    for (size_t i = 0; i < history->count; i++) {
        for (int side = -1; side <= 1; side++) {
            Lsn lsn = history->forks[i].end + (Lsn)(int64_t)side;
            TimeLineID at = timeline_history_at(history, lsn);
            TimeLineID next;
            Lsn end;

            must(timeline_history_find(history, at, &end, &next));
            must(next == 0 || lsn < end);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const TimeLineID timelines[] = {1, 5, UINT32_MAX};

    for (size_t i = 0; i < sizeof timelines / sizeof timelines[0]; i++) {
        TimelineHistory history = {.timeline = 0};
        Error err = ERROR_INIT;

        if (timeline_history_parse((Span){data, size}, timelines[i], &history, &err)) {
            must(history.timeline == timelines[i] && err.code == ERR_NONE);
            compare_lines(&history, data, size);
            check_order(&history);
            check_at(&history);
            timeline_history_free(&history);
        } else {
            must(history.timeline == 0 && err.message[0] != '\0');
            must(err.code == ERR_FORMAT || err.code == ERR_MEMORY);
        }
    }
    return 0;
}
