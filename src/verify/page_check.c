#include "stream/stage.h"
#include "verify/internal.h"

typedef struct PageCheck {
    Sink sink;
    PageTally *tally;
    ProblemSink problems;
    Reporter reporter; /* borrows `problems` */
    PageScan *scan;
    bool looking; /* at the file at hand */
    Buf path;     /* of it, as the manifest names it */
} PageCheck;

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    PageCheck *check = (PageCheck *)self;

    check->looking = !check->reporter.enough && entry->kind == ENTRY_FILE &&
                     page_scan_begin(check->scan, entry->path, self->tablespace, entry->size, 0);
    return !check->looking || member_path(self->tablespace, entry, &check->path, err);
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    PageCheck *check = (PageCheck *)self;

    if (check->sink.place != SINK_IN_ENTRY)
        return error_set(err, ERR_BUG, "data outside of an entry reached the page check");
    return !check->looking || page_scan_feed(check->scan, data, err);
}

static bool
end_entry(Sink *self, Error *err)
{
    PageCheck *check = (PageCheck *)self;
    PageFindings found;

    if (!check->looking)
        return true;
    check->looking = false;
    page_scan_end(check->scan, &found);
    check->tally->checked += found.tally.checked;
    check->tally->bad += found.tally.bad;
    return report_pages(&check->reporter, buf_text(&check->path), &found, err);
}

static const WatchOps page_check_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
    .entry_end = end_entry,
};

static bool
page_check_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &page_check_watch, event, err);
}

static void
page_check_release(Sink *self)
{
    PageCheck *check = (PageCheck *)self;

    page_scan_free(check->scan);
    reporter_free(&check->reporter);
    buf_free(&check->path);
}

static const SinkOps page_check_ops = {
    .name = "page_check", .push = page_check_push, .release = page_check_release};

Sink *
page_check_new(Sink *next, const PageCheckConfig *config, PageTally *tally, Error *err)
{
    const PageRules rules = {.page_size = config->page_size,
                             .segment_pages = config->segment_pages,
                             .start = config->start};
    PageCheck *check = sink_alloc(sizeof *check, &page_check_ops, next, err);

    if (check == NULL)
        return NULL;
    check->tally = tally;
    check->problems = config->problems;
    check->path = BUF_INIT;
    check->reporter = REPORTER_INIT(&check->problems);
    check->scan = page_scan_new(&rules, err);
    if (check->scan == NULL) {
        sink_free(&check->sink);
        return NULL;
    }
    *tally = (PageTally){.checked = 0};
    return &check->sink;
}
