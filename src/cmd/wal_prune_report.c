#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/json_line.h"
#include "cmd/wal_prune_cmd.h"

/* ---- amounts ---- */

typedef struct Amount {
    uint64_t files;
    uint64_t bytes;
} Amount;

static Amount
amount_of(const PrunePlan *plan, bool goes)
{
    Amount amount = {.files = 0};

    for (size_t i = 0; i < plan->count; i++) {
        if (prune_goes(&plan->files[i]) == goes) {
            amount.files++;
            amount.bytes += plan->files[i].bytes;
        }
    }
    return amount;
}

/* "1 file (512 kB)", "3 files (48.0 MB)" */
static bool
append_amount(const Amount *amount, Buf *text, Error *err)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB"};
    double size = (double)amount->bytes / 1024;
    size_t unit = 0;

    while (size >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        size /= 1024;
        unit++;
    }
    return buf_printf(text, err, "%llu file%s (%.*f %s)", (unsigned long long)amount->files,
                      amount->files == 1 ? "" : "s", unit == 0 ? 0 : 1, size, units[unit]);
}

/* ---- in words ---- */

/* Files that one line tells of: neighbours for the same reason. */
typedef struct Stretch {
    const PruneFile *first;
    const PruneFile *last;
    Amount amount;
} Stretch;

typedef struct Stretches {
    Stretch *list;
    size_t count;
    size_t capacity;
} Stretches;

static bool
is_like(const PruneFile *file, const PruneFile *other)
{
    return file->kind == PRUNE_SEGMENT && other->kind == PRUNE_SEGMENT &&
           file->timeline == other->timeline && file->reason == other->reason &&
           file->need == other->need;
}

/* Files are in the order of positions: those of other timelines may be in between. */
static Stretch *
find_stretch(const Stretches *stretches, const PruneFile *file)
{
    for (size_t i = stretches->count; i > 0; i--) {
        Stretch *stretch = &stretches->list[i - 1];

        if (is_like(file, stretch->last))
            return file->number <= stretch->last->number + 1 ? stretch : NULL;
    }
    return NULL;
}

static bool
add_file(Stretches *stretches, const PruneFile *file, Error *err)
{
    Stretch *stretch = find_stretch(stretches, file);

    if (stretch == NULL) {
        void *array = stretches->list;
        bool ok = mem_grow(&array, &stretches->capacity, stretches->count + 1,
                           sizeof *stretches->list, err);

        stretches->list = array;
        if (!ok)
            return false;
        stretch = &stretches->list[stretches->count++];
        *stretch = (Stretch){.first = file};
    }
    stretch->last = file;
    stretch->amount.files++;
    stretch->amount.bytes += file->bytes;
    return true;
}

static bool
append_reason(const PruneFile *file, Buf *text, Error *err)
{
    switch (file->reason) {
    case PRUNE_OLD:
        return buf_printf(text, err, "before all that is needed");
    case PRUNE_DEAD_TIMELINE:
        return buf_printf(text, err, "nothing that stays comes from its timeline");
    case PRUNE_NEEDED:
        return buf_printf(text, err, "needed by %s", file->need->what);
    case PRUNE_OTHER_BRANCH:
        return buf_printf(text, err, "younger backups than %s may be on timeline %u",
                          file->need->what, file->timeline);
    case PRUNE_HISTORY:
        return buf_printf(text, err, "recovery looks for it");
    case PRUNE_OURS:
        return buf_printf(text, err, "the archive's own");
    case PRUNE_TEMPORARY:
        return buf_printf(text, err, "may be written just now");
    case PRUNE_STRAY:
        return buf_printf(text, err, "no file of an archive");
    case PRUNE_NOT_A_FILE:
        break;
    }
    return buf_printf(text, err, "not a regular file");
}

static bool
append_stretch(const Stretch *stretch, Buf *text, Error *err)
{
    if (!buf_printf(text, err, "%s %s", prune_goes(stretch->first) ? "remove" : "keep  ",
                    stretch->first->name))
        return false;
    if (stretch->first != stretch->last && !buf_printf(text, err, " to %s", stretch->last->name))
        return false;
    return buf_printf(text, err, ": ") && append_amount(&stretch->amount, text, err) &&
           buf_printf(text, err, ", ") && append_reason(stretch->first, text, err) &&
           buf_printf(text, err, "\n");
}

bool
prune_report_plan(const PruneReport *report, Buf *text, Error *err)
{
    Stretches stretches = {.list = NULL};
    bool ok = true;

    for (size_t i = 0; ok && i < report->plan->count; i++)
        ok = add_file(&stretches, &report->plan->files[i], err);
    for (size_t i = 0; ok && i < stretches.count; i++)
        ok = append_stretch(&stretches.list[i], text, err);
    free(stretches.list);
    return ok;
}

bool
prune_report_result(const PruneReport *report, Buf *text, Error *err)
{
    Amount goes = amount_of(report->plan, true);

    if (goes.files == 0)
        return buf_printf(text, err, "nothing can be removed\n");
    return append_amount(&goes, text, err) &&
           buf_printf(text, err, "%s\n",
                      report->removed ? " removed" : " can be removed: repeat with --yes");
}

/* ---- for programs ---- */

/* A text: it is too large for many a reader of JSON. */
static void
put_system_id(JsonLine *line, uint64_t system_id)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)system_id);
    json_put_text_or_null(line, "system_identifier", system_id == 0 ? NULL : text);
}

static const char *const kind_names[] = {
    [PRUNE_SEGMENT] = "segment",
    [PRUNE_BACKUP] = "backup_history",
    [PRUNE_TIMELINE] = "timeline_history",
    [PRUNE_OTHER] = "other",
};

static const char *const reason_names[] = {
    [PRUNE_OLD] = "old",
    [PRUNE_DEAD_TIMELINE] = "dead_timeline",
    [PRUNE_NEEDED] = "needed",
    [PRUNE_OTHER_BRANCH] = "other_branch",
    [PRUNE_HISTORY] = "history",
    [PRUNE_OURS] = "own",
    [PRUNE_TEMPORARY] = "temporary",
    [PRUNE_STRAY] = "stray",
    [PRUNE_NOT_A_FILE] = "not_a_file",
};

static void
put_needs(JsonLine *line, const PruneReport *report)
{
    json_array_begin(line, "needs");
    for (size_t i = 0; i < report->need_count; i++) {
        const PruneNeed *need = &report->needs[i];

        json_element_begin(line);
        json_put_path(line, "what", need->what);
        json_put_number_if(line, "timeline", need->timeline != 0, need->timeline);
        json_put_lsn(line, "start_lsn", need->start);
        if (need->end == LSN_INVALID)
            json_put_null(line, "end_lsn");
        else
            json_put_lsn(line, "end_lsn", need->end);
        json_element_end(line);
    }
    json_array_end(line);
}

static void
put_files(JsonLine *line, const PruneReport *report)
{
    json_array_begin(line, "files");
    for (size_t i = 0; i < report->plan->count; i++) {
        const PruneFile *file = &report->plan->files[i];
        size_t need = file->need == NULL ? 0 : (size_t)(file->need - report->needs);

        json_element_begin(line);
        json_put_path(line, "name", file->name);
        json_put_text(line, "kind", kind_names[file->kind]);
        json_put_text(line, "action", prune_goes(file) ? "remove" : "keep");
        json_put_text(line, "reason", reason_names[file->reason]);
        json_put_number_if(line, "need", file->need != NULL, need);
        json_put_number_if(line, "timeline", file->timeline != 0, file->timeline);
        json_put_number(line, "bytes", file->bytes);
        json_element_end(line);
    }
    json_array_end(line);
}

bool
prune_report_json(const PruneReport *report, Buf *text, Error *err)
{
    JsonLine line = json_line_begin(text, err);
    const Error *failure = report->failure;
    Amount goes = amount_of(report->plan, true);
    Amount stays = amount_of(report->plan, false);
    bool hint = failure != NULL && failure->hint[0] != '\0';

    json_put_number(&line, "version", PRUNE_JSON_VERSION);
    json_put_text(&line, "pgstow_version", report->version);
    json_put_path(&line, "directory", report->directory);
    json_put_number_if(&line, "segment_size", report->archive->segment_size != 0,
                       report->archive->segment_size);
    put_system_id(&line, report->archive->system_id);
    put_needs(&line, report);
    put_files(&line, report);
    json_put_number(&line, "remove_files", goes.files);
    json_put_number(&line, "remove_bytes", goes.bytes);
    json_put_number(&line, "keep_files", stays.files);
    json_put_number(&line, "keep_bytes", stays.bytes);
    json_put_text_or_null(&line, "error", failure == NULL ? NULL : failure->message);
    json_put_text_or_null(&line, "hint", hint ? failure->hint : NULL);
    json_put_text(&line, "result",
                  failure != NULL   ? "error"
                  : report->removed ? "removed"
                                    : "planned");
    return json_line_end(&line);
}
