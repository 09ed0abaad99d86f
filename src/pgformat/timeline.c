/*
 * Read as the server reads (readTimeLineHistory, tliSwitchPoint, tliOfPointInHistory): the fields
 * of a line are separated by any white space and whatever follows them is ignored. It uses scanf,
 * which takes more for a number than any server writes: a sign and an overflow are refused here. So
 * is a zero byte where a line begins: a file of zeros is what a crash left of one.
 */
#include "pgformat/timeline.h"

#include <stdlib.h>
#include <string.h>

/* How much of a bad line is quoted. */
#define QUOTE_MAX 60

static bool
is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void
skip_spaces(Span *text)
{
    while (text->len > 0 && is_space(text->data[0])) {
        text->data++;
        text->len--;
    }
}

/* Up to a newline, which is taken too, or to the end. */
static Span
take_line(Span *text)
{
    const uint8_t *newline = memchr(text->data, '\n', text->len);
    Span line = {text->data, newline == NULL ? text->len : (size_t)(newline - text->data)};
    size_t taken = newline == NULL ? line.len : line.len + 1;

    text->data += taken;
    text->len -= taken;
    return line;
}

/* A hexadecimal number may begin with 0x. */
static void
skip_prefix(Span *text)
{
    if (text->len >= 2 && text->data[0] == '0' && (text->data[1] == 'x' || text->data[1] == 'X')) {
        text->data += 2;
        text->len -= 2;
    }
}

static bool
take_number(Span *text, uint32_t base, uint32_t *ret_number)
{
    uint64_t number = 0;
    size_t digits = 0;

    skip_spaces(text);
    if (base == 16)
        skip_prefix(text);
    for (; text->len > 0; text->data++, text->len--) {
        int digit = hex_digit((char)text->data[0]);

        if (digit < 0 || (uint32_t)digit >= base)
            break;
        number = number * base + (uint32_t)digit;
        if (number > UINT32_MAX)
            return false;
        digits++;
    }
    *ret_number = (uint32_t)number;
    return digits > 0;
}

static bool
take_char(Span *text, char c)
{
    if (text->len == 0 || text->data[0] != (uint8_t)c)
        return false;
    text->data++;
    text->len--;
    return true;
}

static bool
parse_fork(Span line, TimelineFork *ret_fork)
{
    TimeLineID timeline;
    uint32_t high;
    uint32_t low;

    if (!take_number(&line, 10, &timeline) || !take_number(&line, 16, &high) ||
        !take_char(&line, '/') || !take_number(&line, 16, &low))
        return false;
    *ret_fork = (TimelineFork){.timeline = timeline, .end = (Lsn)high << 32 | low};
    return true;
}

static bool
check_order(const TimelineHistory *history, TimeLineID timeline, size_t number, Error *err)
{
    TimeLineID before = history->count > 0 ? history->forks[history->count - 1].timeline : 0;

    if (timeline >= history->timeline)
        return error_set(err, ERR_FORMAT,
                         "line %zu names timeline %u as an ancestor of timeline %u", number,
                         timeline, history->timeline);
    if (history->count > 0 && timeline <= before)
        return error_set(err, ERR_FORMAT, "line %zu names timeline %u behind timeline %u", number,
                         timeline, before);
    return true;
}

static bool
add_fork(TimelineHistory *history, size_t *capacity, TimelineFork fork, Error *err)
{
    void *forks = history->forks;

    if (!mem_grow(&forks, capacity, history->count + 1, sizeof *history->forks, err))
        return false;
    history->forks = forks;
    history->forks[history->count++] = fork;
    return true;
}

static bool
parse_lines(Span text, TimelineHistory *history, Error *err)
{
    size_t capacity = 0;

    for (size_t number = 1; text.len > 0; number++) {
        Span line = take_line(&text);
        Span content = line;
        TimelineFork fork;

        skip_spaces(&content);
        if (content.len == 0 || content.data[0] == '#')
            continue;
        if (!parse_fork(line, &fork))
            return error_set(err, ERR_FORMAT,
                             "line %zu does not begin with a timeline and an LSN: \"%.*s\"", number,
                             (int)(line.len < QUOTE_MAX ? line.len : QUOTE_MAX),
                             (const char *)line.data);
        if (!check_order(history, fork.timeline, number, err) ||
            !add_fork(history, &capacity, fork, err))
            return false;
    }
    return true;
}

bool
timeline_history_parse(Span text, TimeLineID timeline, TimelineHistory *ret_history, Error *err)
{
    TimelineHistory history = {.timeline = timeline};

    if (!parse_lines(text, &history, err)) {
        timeline_history_free(&history);
        return error_context(err, "history file of timeline %u", timeline);
    }
    *ret_history = history;
    return true;
}

void
timeline_history_free(TimelineHistory *history)
{
    if (history == NULL)
        return;
    free(history->forks);
    *history = (TimelineHistory){.timeline = 0};
}

/* The timeline that follows the one at `index`. */
static TimeLineID
next_timeline(const TimelineHistory *history, size_t index)
{
    return index + 1 < history->count ? history->forks[index + 1].timeline : history->timeline;
}

bool
timeline_history_find(const TimelineHistory *history, TimeLineID timeline, Lsn *ret_end,
                      TimeLineID *ret_next)
{
    for (size_t i = 0; i < history->count; i++) {
        if (history->forks[i].timeline == timeline) {
            *ret_end = history->forks[i].end;
            *ret_next = next_timeline(history, i);
            return true;
        }
    }
    if (timeline != history->timeline)
        return false;
    *ret_end = LSN_INVALID;
    *ret_next = 0;
    return true;
}

TimeLineID
timeline_history_at(const TimelineHistory *history, Lsn lsn)
{
    for (size_t i = history->count; i > 0; i--) {
        if (lsn >= history->forks[i - 1].end)
            return next_timeline(history, i - 1);
    }
    return history->count > 0 ? history->forks[0].timeline : history->timeline;
}
