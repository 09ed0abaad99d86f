#include "cmd/progress_json.h"

#include "cmd/json_line.h"
#include "cmd/problem_kind.h"

static JsonLine
event_begin(const char *event, Buf *buf, Error *err)
{
    JsonLine line = json_line_begin(buf, err);

    json_put_number(&line, "version", PROGRESS_JSON_VERSION);
    json_put_text(&line, "event", event);
    return line;
}

bool
json_waiting(Buf *buf, Error *err)
{
    JsonLine line = event_begin("waiting", buf, err);

    return json_line_end(&line);
}

bool
json_begin(const BackupBegin *begin, Buf *buf, Error *err)
{
    JsonLine line = event_begin("begin", buf, err);

    json_put_number(&line, "server_version", (uint64_t)begin->server_version);
    json_put_lsn(&line, "start_lsn", begin->start);
    json_put_number(&line, "timeline", begin->timeline);
    json_put_number_if(&line, "total_bytes", begin->total != 0, begin->total);
    json_put_number(&line, "tablespaces", begin->tablespace_count);
    return json_line_end(&line);
}

bool
json_progress(const BackupProgress *progress, const Speed *speed, Buf *buf, Error *err)
{
    JsonLine line = event_begin("progress", buf, err);

    json_put_number(&line, "done_bytes", progress->done);
    json_put_number_if(&line, "total_bytes", progress->total != 0, progress->total);
    json_put_number_if(&line, "percent", progress->total != 0 || progress->finished,
                       (uint64_t)progress_percent(progress));
    json_put_number(&line, "tablespaces_done", progress->tablespace);
    json_put_number(&line, "tablespaces", progress->tablespace_count);
    json_put_path(&line, "current", progress->current);
    json_put_number(&line, "elapsed_ms", (uint64_t)progress->elapsed_ms);
    json_put_number_if(&line, "bytes_per_second", speed->known, speed->rate);
    json_put_number_if(&line, "seconds_left", speed->left_known, speed->left);
    json_put_bool(&line, "finished", progress->finished);
    return json_line_end(&line);
}

bool
json_problem(const Problem *problem, Buf *buf, Error *err)
{
    JsonLine line = event_begin("problem", buf, err);
    bool page = problem->kind == PROBLEM_PAGE && problem->block != PROBLEM_WHOLE_FILE;

    json_put_text(&line, "kind", problem_kind_name(problem->kind));
    json_put_path(&line, "path", problem->path);
    json_put_text(&line, "message", problem->message);
    if (problem->kind == PROBLEM_PAGE) {
        json_put_number_if(&line, "block", page, problem->block);
        json_put_number_if(&line, "expected", page, problem->expected);
        json_put_number_if(&line, "found", page, problem->found);
    }
    if (problem->kind == PROBLEM_WAL)
        json_put_lsn(&line, "lsn", problem->lsn);
    return json_line_end(&line);
}

bool
json_end(const BackupSummary *summary, Buf *buf, Error *err)
{
    JsonLine line = event_begin("end", buf, err);

    json_put_number(&line, "received_bytes", summary->received);
    json_put_number(&line, "wal_received_bytes", summary->wal_received);
    json_put_number(&line, "elapsed_ms", (uint64_t)summary->elapsed_ms);
    json_put_lsn(&line, "start_lsn", summary->start);
    json_put_lsn(&line, "end_lsn", summary->end);
    json_put_number(&line, "timeline", summary->timeline);
    json_put_number_if(&line, "files_checked", summary->manifest_checked, summary->files);
    json_put_number_if(&line, "bytes_checked", summary->manifest_checked, summary->bytes);
    json_put_number_if(&line, "pages_checked", summary->pages_checked, summary->pages);
    json_put_number_if(&line, "pages_bad", summary->pages_checked, summary->bad_pages);
    json_put_bool(&line, "wal_checked", summary->wal_checked);
    json_put_bool(&line, "durable", summary->durable);
    return json_line_end(&line);
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
    JsonLine line = event_begin("error", buf, err);

    json_put_text(&line, "code", error_name(failure->code));
    json_put_text(&line, "message", failure->message);
    json_put_text_or_null(&line, "hint", failure->hint[0] == '\0' ? NULL : failure->hint);
    json_put_text_or_null(&line, "sqlstate",
                          failure->sqlstate[0] == '\0' ? NULL : failure->sqlstate);
    json_put_number_if(&line, "signal", signo != 0, (uint64_t)signo);
    return json_line_end(&line);
}
