#include <string.h>

#include "pgformat/walrecord.h"
#include "stream/stage.h"
#include "verify/internal.h"

typedef struct WalCheck {
    Sink sink;
    WalCheckConfig config;
    _Atomic Lsn *checked_to;
    WalParser *parser;   /* NULL before the first segment */
    WalParser *header;   /* for the first page header of a segment that the chain begins behind */
    TimeLineID timeline; /* of the last segment */
    Lsn received;        /* end of what came of it */
    Lsn segment_end;
    bool in_segment;
} WalCheck;

static void
segment_name_at(const WalCheck *check, Lsn lsn, char name[WAL_NAME_SIZE])
{
    uint32_t size = check->config.segment_size;

    wal_segment_name(name, check->timeline, wal_segment_number(lsn, size), size);
}

static bool
damage_found(const WalCheck *check, const WalDamage *damage, Error *err)
{
    char name[WAL_NAME_SIZE];

    /* A record may have begun in the segment before: the name is that of the LSN. */
    segment_name_at(check, damage->lsn, name);
    return error_set(err, ERR_MISMATCH, "WAL segment \"%s\" is damaged at LSN " LSN_FORMAT ": %s",
                     name, LSN_ARGS(damage->lsn), damage->reason);
}

static WalParser *
parser_new(const WalCheck *check, TimeLineID timeline, Lsn start, Error *err)
{
    WalParserConfig config = {
        .start = start,
        .segment_size = check->config.segment_size,
        .timeline = timeline,
        .system_id = check->config.system_id,
    };

    return wal_parser_new(&config, err);
}

/* Begin a chain in the segment that starts at `segment`. */
static bool
chain_start(WalCheck *check, TimeLineID timeline, Lsn segment, Error *err)
{
    Lsn start = segment > check->config.start ? segment : check->config.start;

    wal_parser_free(check->parser);
    check->parser = parser_new(check, timeline, start, err);
    if (check->parser == NULL)
        return false;
    check->timeline = timeline;
    atomic_store(check->checked_to, wal_parser_valid_end(check->parser));
    return true;
}

/* Recovery reads the header of a segment's first page wherever in the segment it begins. */
static bool
header_start(WalCheck *check, Lsn segment, Error *err)
{
    wal_parser_free(check->header);
    check->header = NULL;
    if (wal_parser_position(check->parser) <= segment)
        return true;
    check->header = parser_new(check, check->timeline, segment, err);
    return check->header != NULL;
}

/* Where a segment may begin that goes on with what was received, or is the first. */
static bool
continuity_check(const WalCheck *check, const char *name, TimeLineID timeline, Lsn segment,
                 Error *err)
{
    bool first = check->parser == NULL;
    Lsn expected = first ? check->config.start : check->received;
    bool later = first || timeline > check->timeline;

    if (timeline < check->timeline)
        return error_set(err, ERR_MISMATCH,
                         "WAL segment \"%s\" is of timeline %u, behind timeline %u", name, timeline,
                         check->timeline);
    if (later ? segment > expected : segment != expected)
        return error_set(err, ERR_MISMATCH,
                         "WAL segment \"%s\" begins at LSN " LSN_FORMAT
                         ", but the WAL before it ends at " LSN_FORMAT,
                         name, LSN_ARGS(segment), LSN_ARGS(expected));
    return true;
}

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    WalCheck *check = (WalCheck *)self;
    uint32_t size = check->config.segment_size;
    TimeLineID timeline;
    uint64_t number;
    Lsn segment;

    if (entry->kind != ENTRY_FILE || !wal_segment_parse(entry->path, size, &timeline, &number))
        return true;
    segment = wal_segment_start(number, size);
    if (!continuity_check(check, entry->path, timeline, segment, err))
        return false;
    /* A new timeline's first segment repeats the old one's up to where they part. */
    if ((check->parser == NULL || timeline > check->timeline) &&
        !chain_start(check, timeline, segment, err))
        return false;
    if (!header_start(check, segment, err))
        return false;
    check->received = segment;
    check->segment_end = segment + size;
    check->in_segment = true;
    return true;
}

static bool
check_header(WalCheck *check, Span data, Error *err)
{
    Lsn end = check->segment_end - check->config.segment_size + WAL_LONG_HEADER;
    WalDamage damage;

    if (check->received + data.len > end)
        data.len = (size_t)(end - check->received);
    if (wal_parser_feed(check->header, data, &damage) == WAL_DAMAGED)
        return damage_found(check, &damage, err);
    if (check->received + data.len == end) {
        wal_parser_free(check->header);
        check->header = NULL;
    }
    return true;
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    WalCheck *check = (WalCheck *)self;
    char name[WAL_NAME_SIZE];
    WalVerdict verdict;
    WalDamage damage;
    Lsn wanted;

    if (!check->in_segment)
        return true;
    wanted = wal_parser_position(check->parser);
    if (data.len > check->segment_end - check->received) {
        segment_name_at(check, check->segment_end - 1, name);
        return error_set(err, ERR_FORMAT, "WAL segment \"%s\" is longer than %u bytes", name,
                         check->config.segment_size);
    }
    if (check->header != NULL && !check_header(check, data, err))
        return false;
    if (wanted > check->received) { /* before the page where the chain begins */
        Lsn skip = wanted - check->received;

        if (skip > data.len)
            skip = data.len;
        data.data += skip;
        data.len -= (size_t)skip;
        check->received += skip;
    }
    verdict = wal_parser_feed(check->parser, data, &damage);
    atomic_store(check->checked_to, wal_parser_valid_end(check->parser));
    if (verdict == WAL_DAMAGED)
        return damage_found(check, &damage, err);
    check->received += data.len;
    return true;
}

static bool
end_entry(Sink *self, Error *err)
{
    WalCheck *check = (WalCheck *)self;

    (void)err;
    check->in_segment = false;
    return true;
}

static const WatchOps wal_check_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
    .entry_end = end_entry,
};

static bool
wal_check_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &wal_check_watch, event, err);
}

static void
wal_check_release(Sink *self)
{
    WalCheck *check = (WalCheck *)self;

    wal_parser_free(check->parser);
    wal_parser_free(check->header);
}

static const SinkOps wal_check_ops = {
    .name = "wal_check", .push = wal_check_push, .release = wal_check_release};

Sink *
wal_check_new(Sink *next, const WalCheckConfig *config, _Atomic Lsn *checked_to, Error *err)
{
    WalCheck *check = sink_alloc(sizeof *check, &wal_check_ops, next, err);

    if (check == NULL)
        return NULL;
    check->config = *config;
    check->checked_to = checked_to;
    check->timeline = config->timeline;
    if (!wal_segment_size_valid(config->segment_size)) {
        (void)error_set(err, ERR_BUG, "invalid WAL segment size %u", config->segment_size);
        sink_free(&check->sink);
        return NULL;
    }
    atomic_store(checked_to, config->start);
    return &check->sink;
}
