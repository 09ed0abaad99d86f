/*
 * Following the record chain.
 *
 * WAL is a row of pages; what they hold, their headers left out, is a row of records, each aligned
 * to 8 and cut wherever a page ends. So two machines run over the bytes. At a page boundary a page
 * header is due, whatever else is under way (take_page_header). Behind it the record machine goes
 * on in its phase:
 *
 *     SEEK --> HEADER --> BODY --> PADDING --> HEADER ...
 *                                     |
 *                                     +------> JUMP --> HEADER    behind a switch
 *     TAIL --> PADDING --> SEEK                  a record that began on a page before `start`
 *
 * `left` is what is still to come of the record under way and is 0 when none is: that is what the
 * next page header must announce as its continuation. A server that comes back after losing the
 * end of a record marks the first page it lost, and the record of PAGE_OVERWRITES there takes the
 * place of the lost one: its back link leads to the last whole record before.
 *
 * Each step ends at the end of a header, a record or a page at the latest, so that what is found
 * and where does not depend on how the bytes were cut into pieces.
 */
#include "pgformat/walrecord.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "pgformat/walfile.h"

#define PAGE_HEADER_SHORT 24u
#define RECORD_HEADER     24u
#define RECORD_ALIGN      8u
#define RECORD_MAX        (1020u * 1024 * 1024)

/* A record is aligned and so is the end of a page: they are never cut apart from what is here. */
#define RECORD_LENGTH_KNOWN 8u

/* What stands before the time of a commit at most: origin (3), transaction above (5), and how long
 * the record's own data is (5); then the time. */
#define COMMIT_HEAD 21u

/* What the parts of a record begin with (XLR_BLOCK_ID_...). */
#define PART_ORIGIN    253
#define PART_TOP_LEVEL 252
#define PART_LONG      254
#define PART_SHORT     255

/* xlp_info */
#define PAGE_CONTINUES  0x0001u /* begins with the rest of a record */
#define PAGE_LONG       0x0002u /* has the long header */
#define PAGE_REMOVABLE  0x0004u /* its full-page images may be left out */
#define PAGE_OVERWRITES 0x0008u /* its first record replaces one whose rest was lost */
#define PAGE_FLAGS      (PAGE_CONTINUES | PAGE_LONG | PAGE_REMOVABLE | PAGE_OVERWRITES)

/* Resource managers and the records of the first one that matter for the chain. */
#define RMGR_XLOG         0
#define RMGR_LAST         21
#define RMGR_CUSTOM_FIRST 128
#define XLOG_SWITCH       0x40
#define XLOG_OVERWRITE    0xD0
#define RMGR_XACT         1
#define XACT_OPERATION    0x70 /* of a record's info */
#define XACT_COMMIT       0x00
#define XACT_COMMIT_READY 0x30   /* of a prepared transaction */
#define MAGIC_15          0xD110 /* the first with custom resource managers */

static const uint16_t magics[] = {
    0xD097,   /* 10 */
    0xD098,   /* 11 */
    0xD101,   /* 12 */
    0xD106,   /* 13 */
    0xD10D,   /* 14 */
    MAGIC_15, /* 15 */
    0xD113,   /* 16 */
    0xD116,   /* 17 */
    0xD118,   /* 18 */
};

typedef enum Phase {
    PHASE_SEEK,    /* up to `start` */
    PHASE_TAIL,    /* the rest of a record that began before `start` */
    PHASE_HEADER,  /* a record's header */
    PHASE_BODY,    /* what follows it */
    PHASE_PADDING, /* up to the next multiple of 8 */
    PHASE_JUMP     /* behind a switch, up to the next segment */
} Phase;

struct WalParser {
    Lsn start; /* aligned */
    uint32_t segment_size;
    TimeLineID timeline_max; /* 0: any */
    uint64_t system_id;      /* 0: not known yet */

    Lsn position; /* of the next byte */
    Lsn valid_end;
    bool damaged;
    WalDamage damage;

    bool page_due;       /* the next byte belongs to a page header */
    uint16_t magic;      /* of all pages; 0 before the first */
    TimeLineID timeline; /* of the last page */
    uint32_t page_len;   /* bytes in `page` */
    uint8_t page[WAL_LONG_HEADER];

    Phase phase;
    Lsn record;          /* where the record under way or the last one begins; 0 before the first */
    Lsn linked;          /* where the last record begins whose header was checked */
    Lsn previous;        /* where the last whole record begins; 0 before the first */
    Lsn overwrite;       /* where a record must be that replaces a lost one */
    uint32_t left;       /* bytes of the record under way that are still to come */
    uint32_t crc;        /* of its body so far */
    uint32_t header_len; /* bytes in `header` */
    uint8_t header[RECORD_HEADER];

    uint32_t commit_len; /* bytes in `commit` */
    uint8_t commit[COMMIT_HEAD];
    bool has_commits;
    int64_t first_commit;
    int64_t last_commit;
};

/* ---- the header of a segment's first page ---- */

static WalLongHeader
long_header(const uint8_t *page)
{
    return (WalLongHeader){.address = get_le64(page + 8),
                           .system_id = get_le64(page + 24),
                           .segment_size = get_le32(page + 32),
                           .page_size = get_le32(page + 36),
                           .timeline = get_le32(page + 4)};
}

bool
wal_long_header_parse(Span page, WalLongHeader *ret_header)
{
    if (page.len < WAL_LONG_HEADER || (get_le16(page.data + 2) & PAGE_LONG) == 0)
        return false;
    *ret_header = long_header(page.data);
    return true;
}

/* ---- the parser ---- */

WalParser *
wal_parser_new(const WalParserConfig *config, Error *err)
{
    WalParser *parser;

    if (!wal_segment_size_valid(config->segment_size)) {
        (void)error_set(err, ERR_BUG, "invalid WAL segment size %u", config->segment_size);
        return NULL;
    }
    parser = mem_zero(sizeof *parser, err);
    if (parser == NULL)
        return NULL;
    /* At the end of the LSN space this wraps around, but no page is accepted there. */
    parser->start = (config->start + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
    parser->segment_size = config->segment_size;
    parser->timeline_max = config->timeline;
    parser->system_id = config->system_id;
    parser->position = config->start - config->start % WAL_PAGE_SIZE;
    parser->valid_end = config->start;
    parser->page_due = true;
    parser->phase = PHASE_SEEK;
    return parser;
}

WalParser *
wal_parser_copy(const WalParser *parser, TimeLineID timeline, Error *err)
{
    WalParser *copy = mem_alloc(sizeof *copy, err);

    if (copy == NULL)
        return NULL;
    *copy = *parser;
    copy->timeline_max = timeline;
    return copy;
}

Lsn
wal_parser_linked(const WalParser *parser)
{
    return parser->linked;
}

bool
wal_parser_has_begun(const WalParser *parser)
{
    return parser->phase != PHASE_SEEK && parser->phase != PHASE_TAIL;
}

void
wal_parser_free(WalParser *parser)
{
    free(parser);
}

void
wal_parser_inherit(WalParser *parser, const WalParser *before)
{
    parser->magic = before->magic;
    parser->system_id = before->system_id;
}

uint64_t
wal_parser_system_id(const WalParser *parser)
{
    return parser->system_id;
}

Lsn
wal_parser_position(const WalParser *parser)
{
    return parser->position;
}

Lsn
wal_parser_valid_end(const WalParser *parser)
{
    return parser->valid_end;
}

/* Note what is wrong, for good. Always false. */
static bool PRINTF_LIKE(3, 4) damage_set(WalParser *parser, Lsn lsn, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(parser->damage.reason, sizeof parser->damage.reason, fmt, args);
    va_end(args);
    parser->damage.lsn = lsn;
    parser->damaged = true;
    return false;
}

static size_t
smaller(size_t a, uint64_t b)
{
    return a < b ? a : (size_t)b;
}

/* Add to a header until it has `want` bytes. */
static size_t
collect(uint8_t *header, uint32_t *len, uint32_t want, Span bytes)
{
    size_t take = smaller(bytes.len, want - *len);

    memcpy(header + *len, bytes.data, take);
    *len += (uint32_t)take;
    return take;
}

/* ---- when transactions were committed ---- */

/* Where the record's own data begins; 0 when that is not within what was kept. */
static uint32_t
own_data(const WalParser *parser)
{
    uint32_t at = 0;

    while (at < parser->commit_len) {
        switch (parser->commit[at]) {
        case PART_ORIGIN:
            at += 3;
            break;
        case PART_TOP_LEVEL:
            at += 5;
            break;
        case PART_SHORT:
            return at + 2;
        case PART_LONG:
            return at + 5;
        default:
            return 0;
        }
    }
    return 0;
}

/* Its data begins with the time (xl_xact_commit). */
static void
note_commit(WalParser *parser)
{
    uint32_t at = own_data(parser);
    int64_t time;

    if (at == 0 || at + sizeof time > parser->commit_len)
        return;
    time = (int64_t)get_le64(parser->commit + at);
    if (!parser->has_commits)
        parser->first_commit = time;
    parser->has_commits = true;
    parser->last_commit = time;
}

static bool
is_commit(const WalParser *parser)
{
    uint8_t operation = parser->header[16] & XACT_OPERATION;

    return parser->header[17] == RMGR_XACT &&
           (operation == XACT_COMMIT || operation == XACT_COMMIT_READY);
}

bool
wal_parser_commits(const WalParser *parser, int64_t *ret_first, int64_t *ret_last)
{
    if (parser->has_commits) {
        *ret_first = parser->first_commit;
        *ret_last = parser->last_commit;
    }
    return parser->has_commits;
}

/* At a place where a record begins, though perhaps not yet one that counts. */
static void
record_begin(WalParser *parser)
{
    parser->header_len = 0;
    parser->phase = parser->position < parser->start ? PHASE_SEEK : PHASE_HEADER;
}

/* ---- pages ---- */

static bool
magic_check(WalParser *parser, Lsn page)
{
    uint16_t magic = get_le16(parser->page);

    if (parser->magic != 0) {
        if (magic != parser->magic)
            return damage_set(parser, page, "magic number is %04X, expected %04X", magic,
                              parser->magic);
        return true;
    }
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
        if (magic == magics[i]) {
            parser->magic = magic;
            return true;
        }
    }
    return damage_set(parser, page, "invalid magic number %04X", magic);
}

static bool
timeline_check(WalParser *parser, Lsn page)
{
    TimeLineID timeline = get_le32(parser->page + 4);

    if (timeline < parser->timeline || timeline == 0)
        return damage_set(parser, page, "timeline is %u after timeline %u", timeline,
                          parser->timeline);
    if (parser->timeline_max != 0 && timeline > parser->timeline_max)
        return damage_set(parser, page, "timeline is %u, expected at most %u", timeline,
                          parser->timeline_max);
    parser->timeline = timeline;
    return true;
}

/* What every page header has. */
static bool
page_check(WalParser *parser, Lsn page)
{
    uint16_t flags = get_le16(parser->page + 2);
    Lsn address = get_le64(parser->page + 8);
    bool segment_begins = page % parser->segment_size == 0;

    if (!magic_check(parser, page))
        return false;
    if ((flags & ~PAGE_FLAGS) != 0 ||
        (flags & (PAGE_CONTINUES | PAGE_OVERWRITES)) == (PAGE_CONTINUES | PAGE_OVERWRITES))
        return damage_set(parser, page, "invalid page flags %04X", flags);
    if (((flags & PAGE_LONG) != 0) != segment_begins)
        return damage_set(parser, page, "page header is %s, expected the %s one",
                          segment_begins ? "short" : "long", segment_begins ? "long" : "short");
    if (address != page)
        return damage_set(parser, page, "page address is " LSN_FORMAT, LSN_ARGS(address));
    /* LSNs end here; no server gets this far, but what comes from a disk may say so. */
    if (page > UINT64_MAX - parser->segment_size)
        return damage_set(parser, page, "page address is out of range");
    return timeline_check(parser, page);
}

/* What the first page of a segment has besides. */
static bool
long_page_check(WalParser *parser, Lsn page)
{
    WalLongHeader header = long_header(parser->page);

    if (parser->system_id == 0)
        parser->system_id = header.system_id;
    if (header.system_id != parser->system_id)
        return damage_set(parser, page, "system identifier is %llu, expected %llu",
                          (unsigned long long)header.system_id,
                          (unsigned long long)parser->system_id);
    if (header.segment_size != parser->segment_size)
        return damage_set(parser, page, "segment size is %u, expected %u", header.segment_size,
                          parser->segment_size);
    if (header.page_size != WAL_PAGE_SIZE)
        return damage_set(parser, page, "WAL block size is %u, expected %u", header.page_size,
                          WAL_PAGE_SIZE);
    return true;
}

/* Does the page begin with what is still to come of the record under way? */
static bool
continuation_check(WalParser *parser, Lsn page, bool continues, uint32_t rest)
{
    if (parser->left == 0 && continues && (parser->phase != PHASE_SEEK || rest == 0))
        return damage_set(parser, page, "page continues a record that does not exist");
    if (parser->left != 0 && !continues)
        return damage_set(parser, page, "page does not continue the record before it");
    if (parser->left != 0 && rest != parser->left)
        return damage_set(parser, page, "page continues a record with %u bytes, expected %u", rest,
                          parser->left);
    return true;
}

/* Behind a page header: how the record machine goes on. */
static void
page_enter(WalParser *parser, Lsn page)
{
    uint16_t flags = get_le16(parser->page + 2);
    uint32_t rest = get_le32(parser->page + 16);
    bool continues = (flags & PAGE_CONTINUES) != 0;

    parser->page_due = false;
    if ((flags & PAGE_OVERWRITES) != 0) {
        parser->overwrite = parser->position;
        parser->left = 0;
        record_begin(parser);
    } else if (!continuation_check(parser, page, continues, rest)) {
        return;
    } else if (continues && parser->phase == PHASE_SEEK) {
        parser->left = rest;
        parser->phase = PHASE_TAIL;
    } else if (parser->phase == PHASE_SEEK) {
        record_begin(parser);
    }
}

static size_t
take_page_header(WalParser *parser, Span bytes)
{
    uint32_t want = parser->page_len < PAGE_HEADER_SHORT ? PAGE_HEADER_SHORT : WAL_LONG_HEADER;
    size_t used = collect(parser->page, &parser->page_len, want, bytes);
    Lsn page;

    parser->position += used;
    if (parser->page_len < want)
        return used;
    page = parser->position - want;
    if (want == PAGE_HEADER_SHORT) {
        if (page_check(parser, page) && (get_le16(parser->page + 2) & PAGE_LONG) == 0)
            page_enter(parser, page);
    } else if (long_page_check(parser, page)) {
        page_enter(parser, page);
    }
    return used;
}

/* ---- records ---- */

static bool
record_is(const WalParser *parser, uint8_t info)
{
    return parser->header[17] == RMGR_XLOG && (parser->header[16] & 0xF0) == info;
}

static void
length_check(WalParser *parser)
{
    uint32_t length = get_le32(parser->header);

    if (length == 0)
        (void)damage_set(parser, parser->record, "no record");
    else if (length < RECORD_HEADER || length > RECORD_MAX)
        (void)damage_set(parser, parser->record, "invalid record length %u", length);
    else
        parser->left = length - parser->header_len;
}

static bool
header_check(WalParser *parser)
{
    Lsn link = get_le64(parser->header + 8);
    uint8_t rmgr = parser->header[17];

    if (rmgr > RMGR_LAST && (rmgr < RMGR_CUSTOM_FIRST || parser->magic < MAGIC_15))
        return damage_set(parser, parser->record, "invalid resource manager %u", rmgr);
    if (parser->previous == LSN_INVALID) {
        if (link >= parser->record)
            return damage_set(parser, parser->record,
                              "previous record link is " LSN_FORMAT ", not before the record",
                              LSN_ARGS(link));
    } else if (link != parser->previous) {
        return damage_set(parser, parser->record,
                          "previous record link is " LSN_FORMAT ", expected " LSN_FORMAT,
                          LSN_ARGS(link), LSN_ARGS(parser->previous));
    }
    if (parser->record == parser->overwrite && !record_is(parser, XLOG_OVERWRITE))
        return damage_set(parser, parser->record, "record does not replace the lost one before it");
    return true;
}

/* Behind a record and its padding. */
static void
record_end(WalParser *parser)
{
    bool counts = parser->record != LSN_INVALID; /* it was not just a tail */

    if (counts) {
        parser->previous = parser->record;
        parser->valid_end = parser->position;
    }
    if (counts && record_is(parser, XLOG_SWITCH) && parser->position % parser->segment_size != 0)
        parser->phase = PHASE_JUMP;
    else
        record_begin(parser);
}

/* Behind the last byte of a record or tail. */
static void
padding_begin(WalParser *parser)
{
    parser->phase = PHASE_PADDING;
    if (parser->position % RECORD_ALIGN == 0)
        record_end(parser);
}

static void
body_end(WalParser *parser)
{
    uint32_t expected = get_le32(parser->header + 20);
    uint32_t crc = crc32c(parser->crc, parser->header, 20);

    if (crc != expected) {
        (void)damage_set(parser, parser->record, "record checksum is %08X but its header says %08X",
                         crc, expected);
        return;
    }
    if (is_commit(parser))
        note_commit(parser);
    padding_begin(parser);
}

static size_t
take_record_header(WalParser *parser, Span bytes)
{
    uint32_t had = parser->header_len;
    uint32_t want = had < RECORD_LENGTH_KNOWN ? RECORD_LENGTH_KNOWN : RECORD_HEADER;
    size_t used = collect(parser->header, &parser->header_len, want, bytes);

    if (had == 0)
        parser->record = parser->position;
    parser->position += used;
    if (want == RECORD_HEADER)
        parser->left -= (uint32_t)used;
    if (parser->header_len < want)
        return used;
    if (want == RECORD_LENGTH_KNOWN) {
        length_check(parser);
    } else if (header_check(parser)) {
        parser->linked = parser->record;
        parser->crc = 0;
        parser->commit_len = 0;
        parser->phase = PHASE_BODY;
        if (parser->left == 0)
            body_end(parser);
    }
    return used;
}

/* Of what is still to come of the record or tail as much as is here. */
static size_t
take_left(WalParser *parser, Span bytes)
{
    size_t used = smaller(bytes.len, parser->left);

    parser->position += used;
    parser->left -= (uint32_t)used;
    return used;
}

static size_t
take_body(WalParser *parser, Span bytes)
{
    size_t used = take_left(parser, bytes);

    parser->crc = crc32c(parser->crc, bytes.data, used);
    if (parser->commit_len < COMMIT_HEAD && is_commit(parser))
        (void)collect(parser->commit, &parser->commit_len, COMMIT_HEAD,
                      (Span){.data = bytes.data, .len = used});
    if (parser->left == 0)
        body_end(parser);
    return used;
}

static size_t
take_tail(WalParser *parser, Span bytes)
{
    size_t used = take_left(parser, bytes);

    if (parser->left == 0)
        padding_begin(parser);
    return used;
}

static size_t
take_padding(WalParser *parser, Span bytes)
{
    size_t used = smaller(bytes.len, RECORD_ALIGN - parser->position % RECORD_ALIGN);

    parser->position += used;
    if (parser->position % RECORD_ALIGN == 0)
        record_end(parser);
    return used;
}

static size_t
take_seek(WalParser *parser, Span bytes)
{
    size_t used = smaller(bytes.len, parser->start - parser->position);

    parser->position += used;
    /* At the very end of a page the next one's header has a say: it may begin with a tail. */
    if (parser->position == parser->start && parser->position % WAL_PAGE_SIZE != 0)
        parser->phase = PHASE_HEADER;
    return used;
}

static size_t
take_jump(WalParser *parser, Span bytes)
{
    parser->position += bytes.len;
    if (parser->position % parser->segment_size == 0) {
        parser->valid_end = parser->position;
        record_begin(parser);
    }
    return bytes.len;
}

/* ---- bytes ---- */

/* Everything but page headers: `bytes` is of one page. */
static size_t
take_content(WalParser *parser, Span bytes)
{
    switch (parser->phase) {
    case PHASE_SEEK:
        return take_seek(parser, bytes);
    case PHASE_TAIL:
        return take_tail(parser, bytes);
    case PHASE_HEADER:
        return take_record_header(parser, bytes);
    case PHASE_BODY:
        return take_body(parser, bytes);
    case PHASE_PADDING:
        return take_padding(parser, bytes);
    case PHASE_JUMP:
        return take_jump(parser, bytes);
    }
    return bytes.len; /* not reached */
}

/* At least one byte further. */
static size_t
take_step(WalParser *parser, Span bytes)
{
    size_t used;

    if (parser->page_due)
        return take_page_header(parser, bytes);
    bytes.len = smaller(bytes.len, WAL_PAGE_SIZE - parser->position % WAL_PAGE_SIZE);
    used = take_content(parser, bytes);
    if (parser->position % WAL_PAGE_SIZE == 0 && parser->phase != PHASE_JUMP) {
        parser->page_due = true;
        parser->page_len = 0;
    }
    return used;
}

WalVerdict
wal_parser_feed(WalParser *parser, Span bytes, WalDamage *ret_damage)
{
    while (bytes.len > 0 && !parser->damaged) {
        size_t used = take_step(parser, bytes);

        bytes.data += used;
        bytes.len -= used;
    }
    if (!parser->damaged)
        return WAL_INTACT;
    *ret_damage = parser->damage;
    return WAL_DAMAGED;
}
