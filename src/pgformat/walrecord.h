/*
 * WAL pages and records, checked as bytes pass (PostgreSQL: access/xlog_internal.h,
 * access/xlogrecord.h; servers 10 to 18 share one layout).
 *
 * A WalParser follows the record chain from a start LSN over pages and segments: page magic,
 * address, timeline, segment size and system identifier; record length, resource manager, back link
 * and CRC-32C. It takes the bytes in pieces of any size, in order, and keeps no more than a header
 * of them. Damage is a result (WalDamage), not an Error.
 */
#ifndef PGSTOW_WALRECORD_H
#define PGSTOW_WALRECORD_H

#include "common/bytes.h"
#include "common/error.h"
#include "common/pgtypes.h"

#define WAL_PAGE_SIZE   8192u /* unless a server was built with another one */
#define WAL_LONG_HEADER 40u   /* bytes of the header of a segment's first page */

/* What the header of a segment's first page says of the segment, true or not. */
typedef struct WalLongHeader {
    Lsn address; /* of the page */
    uint64_t system_id;
    uint32_t segment_size;
    uint32_t page_size;
    TimeLineID timeline; /* of the page: an ancestor's up to where the segment's own begins */
} WalLongHeader;

/* False when `page` does not begin with a long header. Nothing else is checked. Pure. */
bool wal_long_header_parse(Span page, WalLongHeader *ret_header);

typedef struct WalParser WalParser;

typedef struct WalParserConfig {
    /* A record begins here or, when it is no record boundary, behind it: the parser moves
     * forward to the first record of that page or a later one. */
    Lsn start;
    uint32_t segment_size; /* bytes, valid */
    TimeLineID timeline;   /* pages of newer ones are damage, older ones are inherited; 0: any */
    uint64_t system_id;    /* 0: whatever the first long page header says */
} WalParserConfig;

typedef struct WalDamage {
    Lsn lsn; /* the record or page that is not what it should be */
    char reason[160];
} WalDamage;

typedef enum WalVerdict {
    WAL_INTACT, /* all so far is well; feed more */
    WAL_DAMAGED /* *ret_damage is set; the parser stays there */
} WalVerdict;

WalParser *wal_parser_new(const WalParserConfig *config, Error *err) MUST_USE;

/* Where the next bytes must begin: at first the page boundary at or before `start`. */
Lsn wal_parser_position(const WalParser *parser);

/* Another parser that is just as far, to try what may follow on another timeline. */
WalParser *wal_parser_copy(const WalParser *parser, TimeLineID timeline, Error *err) MUST_USE;

/* Where the newest record begins whose header is sound, and which links back to the one before it;
 * LSN_INVALID: there is none yet. */
Lsn wal_parser_linked(const WalParser *parser);

/* Whether it has come to a record yet, not only to the rest of one that began before `start`. */
bool wal_parser_has_begun(const WalParser *parser);

/* Pages must be of the version and the cluster of those that `before` has seen. Not once the first
 * bytes were fed. */
void wal_parser_inherit(WalParser *parser, const WalParser *before);

/* Of the cluster, as the config or the pages say; 0: not known yet. */
uint64_t wal_parser_system_id(const WalParser *parser);

WalVerdict wal_parser_feed(WalParser *parser, Span bytes, WalDamage *ret_damage) MUST_USE;

/*
 * End of the last whole record (aligned to 8), at first `start`: everything from `start` up to here
 * is intact. When it has reached an LSN, all records that begin before that LSN are checked. The
 * next record after a switch begins in the next segment; what is in between does not count, and
 * valid_end is the next segment's start once it has passed. Never beyond the bytes that were fed.
 */
Lsn wal_parser_valid_end(const WalParser *parser);

/* When the first and the last transaction that the intact records so far tell of was committed:
 * microseconds since 2000-01-01 00:00:00 UTC. False: they tell of none. */
bool wal_parser_commits(const WalParser *parser, int64_t *ret_first, int64_t *ret_last);

void wal_parser_free(WalParser *parser);

#endif
