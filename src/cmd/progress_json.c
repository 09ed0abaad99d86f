#include "cmd/progress_json.h"

#include <stdlib.h>
#include <string.h>

/* ---- members ---- */

/* A line that is being made: what fails stays failed, and is looked at once, at its end. */
typedef struct Line {
    Buf *buf;
    Error *err;
    bool ok;
} Line;

PRINTF_LIKE(2, 3)
static void
put(Line *line, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    line->ok = line->ok && buf_vprintf(line->buf, line->err, fmt, args);
    va_end(args);
}

static Line
line_begin(const char *event, Buf *buf, Error *err)
{
    Line line = {.buf = buf, .err = err, .ok = true};

    put(&line, "{\"version\":%d,\"event\":\"%s\"", PROGRESS_JSON_VERSION, event);
    return line;
}

static bool
line_end(Line *line)
{
    put(line, "}\n");
    return line->ok;
}

static void
put_number(Line *line, const char *key, uint64_t value)
{
    put(line, ",\"%s\":%llu", key, (unsigned long long)value);
}

static void
put_null(Line *line, const char *key)
{
    put(line, ",\"%s\":null", key);
}

static void
put_number_if(Line *line, const char *key, bool known, uint64_t value)
{
    if (known)
        put_number(line, key, value);
    else
        put_null(line, key);
}

static void
put_bool(Line *line, const char *key, bool value)
{
    put(line, ",\"%s\":%s", key, value ? "true" : "false");
}

static void
put_lsn(Line *line, const char *key, Lsn lsn)
{
    put(line, ",\"%s\":\"" LSN_FORMAT "\"", key, LSN_ARGS(lsn));
}

/* ---- texts ---- */

/* What a lead byte says: how many bytes the character has, and the range of its second one, which
 * leaves out longer forms than needed, surrogates and what is beyond U+10FFFF (RFC 3629). */
typedef struct Lead {
    uint8_t first;
    uint8_t last;
    uint8_t len;
    uint8_t second_min;
    uint8_t second_max;
} Lead;

static const Lead leads[] = {
    {0x01, 0x7F, 1, 0, 0},       {0xC2, 0xDF, 2, 0x80, 0xBF}, {0xE0, 0xE0, 3, 0xA0, 0xBF},
    {0xE1, 0xEC, 3, 0x80, 0xBF}, {0xED, 0xED, 3, 0x80, 0x9F}, {0xEE, 0xEF, 3, 0x80, 0xBF},
    {0xF0, 0xF0, 4, 0x90, 0xBF}, {0xF1, 0xF3, 4, 0x80, 0xBF}, {0xF4, 0xF4, 4, 0x80, 0x8F},
};

static bool
is_between(char byte, uint8_t min, uint8_t max)
{
    return (uint8_t)byte >= min && (uint8_t)byte <= max;
}

/* How long the character at `text` is; 0 when it is no UTF-8. */
static size_t
character_length(const char *text)
{
    const Lead *lead = leads;
    const Lead *end = leads + sizeof leads / sizeof leads[0];

    while (lead < end && !is_between(*text, lead->first, lead->last))
        lead++;
    if (lead == end)
        return 0;
    for (size_t i = 1; i < lead->len; i++) {
        uint8_t min = i == 1 ? lead->second_min : 0x80;
        uint8_t max = i == 1 ? lead->second_max : 0xBF;

        if (!is_between(text[i], min, max))
            return 0;
    }
    return lead->len;
}

static bool
is_utf8(const char *text)
{
    while (*text != '\0') {
        size_t len = character_length(text);

        if (len == 0)
            return false;
        text += len;
    }
    return true;
}

/* One character, or a byte that belongs to none. Returns how many bytes that was. */
static size_t
put_character(Line *line, const char *text)
{
    size_t len = character_length(text);

    if (len == 0) {
        put(line, "\\ufffd");
        return 1;
    }
    if (*text == '"' || *text == '\\')
        put(line, "\\%c", *text);
    else if (is_between(*text, 0, 0x1F))
        put(line, "\\u%04x", (unsigned)*text);
    else
        put(line, "%.*s", (int)len, text);
    return len;
}

static void
put_text(Line *line, const char *key, const char *text)
{
    put(line, ",\"%s\":\"", key);
    while (*text != '\0')
        text += put_character(line, text);
    put(line, "\"");
}

/* NULL: null. */
static void
put_text_or_null(Line *line, const char *key, const char *text)
{
    if (text != NULL)
        put_text(line, key, text);
    else
        put_null(line, key);
}

static void
put_path(Line *line, const char *key, const char *path)
{
    put_text_or_null(line, key, path);
    if (path == NULL || is_utf8(path))
        return;
    put(line, ",\"%s_hex\":\"", key);
    for (; *path != '\0'; path++)
        put(line, "%02x", (unsigned)(uint8_t)*path);
    put(line, "\"");
}

/* ---- events ---- */

bool
json_waiting(Buf *buf, Error *err)
{
    Line line = line_begin("waiting", buf, err);

    return line_end(&line);
}

bool
json_begin(const BackupBegin *begin, Buf *buf, Error *err)
{
    Line line = line_begin("begin", buf, err);

    put_number(&line, "server_version", (uint64_t)begin->server_version);
    put_lsn(&line, "start_lsn", begin->start);
    put_number(&line, "timeline", begin->timeline);
    put_number_if(&line, "total_bytes", begin->total != 0, begin->total);
    put_number(&line, "tablespaces", begin->tablespace_count);
    return line_end(&line);
}

bool
json_progress(const BackupProgress *progress, const Speed *speed, Buf *buf, Error *err)
{
    Line line = line_begin("progress", buf, err);

    put_number(&line, "done_bytes", progress->done);
    put_number_if(&line, "total_bytes", progress->total != 0, progress->total);
    put_number_if(&line, "percent", progress->total != 0 || progress->finished,
                  (uint64_t)progress_percent(progress));
    put_number(&line, "tablespaces_done", progress->tablespace);
    put_number(&line, "tablespaces", progress->tablespace_count);
    put_path(&line, "current", progress->current);
    put_number(&line, "elapsed_ms", (uint64_t)progress->elapsed_ms);
    put_number_if(&line, "bytes_per_second", speed->known, speed->rate);
    put_number_if(&line, "seconds_left", speed->left_known, speed->left);
    put_bool(&line, "finished", progress->finished);
    return line_end(&line);
}

static const char *
problem_name(ProblemKind kind)
{
    switch (kind) {
    case PROBLEM_MISSING:
        return "missing";
    case PROBLEM_EXTRA:
        return "extra";
    case PROBLEM_SIZE:
        return "size";
    case PROBLEM_CHECKSUM:
        return "checksum";
    case PROBLEM_UNREADABLE:
        return "unreadable";
    case PROBLEM_FILE_TYPE:
        return "file_type";
    case PROBLEM_SYSTEM_ID:
        return "system_identifier";
    case PROBLEM_CONTROL:
        return "control_file";
    case PROBLEM_PAGE:
        return "page";
    case PROBLEM_WAL:
        return "wal";
    }
    return "unknown";
}

bool
json_problem(const Problem *problem, Buf *buf, Error *err)
{
    Line line = line_begin("problem", buf, err);
    bool page = problem->kind == PROBLEM_PAGE && problem->block != PROBLEM_WHOLE_FILE;

    put_text(&line, "kind", problem_name(problem->kind));
    put_path(&line, "path", problem->path);
    put_text(&line, "message", problem->message);
    if (problem->kind == PROBLEM_PAGE) {
        put_number_if(&line, "block", page, problem->block);
        put_number_if(&line, "expected", page, problem->expected);
        put_number_if(&line, "found", page, problem->found);
    }
    if (problem->kind == PROBLEM_WAL)
        put_lsn(&line, "lsn", problem->lsn);
    return line_end(&line);
}

bool
json_end(const BackupSummary *summary, Buf *buf, Error *err)
{
    Line line = line_begin("end", buf, err);

    put_number(&line, "received_bytes", summary->received);
    put_number(&line, "wal_received_bytes", summary->wal_received);
    put_number(&line, "elapsed_ms", (uint64_t)summary->elapsed_ms);
    put_lsn(&line, "start_lsn", summary->start);
    put_lsn(&line, "end_lsn", summary->end);
    put_number(&line, "timeline", summary->timeline);
    put_number_if(&line, "files_checked", summary->manifest_checked, summary->files);
    put_number_if(&line, "bytes_checked", summary->manifest_checked, summary->bytes);
    put_number_if(&line, "pages_checked", summary->pages_checked, summary->pages);
    put_number_if(&line, "pages_bad", summary->pages_checked, summary->bad_pages);
    put_bool(&line, "wal_checked", summary->wal_checked);
    put_bool(&line, "durable", summary->durable);
    return line_end(&line);
}

static const char *
error_name(ErrorCode code)
{
    switch (code) {
    case ERR_NONE:
    case ERR_BUG:
        break;
    case ERR_USAGE:
        return "usage";
    case ERR_MEMORY:
        return "memory";
    case ERR_SYSTEM:
        return "system";
    case ERR_CONNECTION:
        return "connection";
    case ERR_SERVER:
        return "server";
    case ERR_PROTOCOL:
        return "protocol";
    case ERR_FORMAT:
        return "format";
    case ERR_UNSUPPORTED:
        return "unsupported";
    case ERR_STOPPED:
        return "stopped";
    case ERR_MISMATCH:
        return "mismatch";
    }
    return "bug";
}

bool
json_error(const Error *failure, int signo, Buf *buf, Error *err)
{
    Line line = line_begin("error", buf, err);

    put_text(&line, "code", error_name(failure->code));
    put_text(&line, "message", failure->message);
    put_text_or_null(&line, "hint", failure->hint[0] == '\0' ? NULL : failure->hint);
    put_text_or_null(&line, "sqlstate", failure->sqlstate[0] == '\0' ? NULL : failure->sqlstate);
    put_number_if(&line, "signal", signo != 0, (uint64_t)signo);
    return line_end(&line);
}
