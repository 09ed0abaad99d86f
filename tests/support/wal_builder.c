#include "support/wal_builder.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

#define RECORD_HEADER 24u
#define CRC_AT        20u

#define PAGE_CONTINUES  0x1
#define PAGE_LONG       0x2
#define PAGE_OVERWRITES 0x8

static void
must(bool ok)
{
    if (!ok)
        abort();
}

static void
put_le(uint8_t *at, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* Bytes as they are, page boundaries or not. */
static void
append(WalBuilder *wal, const void *data, size_t len)
{
    Error err = ERROR_INIT;

    must(buf_append(&wal->bytes, data, len, &err));
    wal->end += len;
}

static uint32_t
page_header_size(const WalBuilder *wal, Lsn page)
{
    return page % wal->config.segment_size == 0 ? 40 : 24;
}

/* A page header if one is due; `rest` is what is still to come of the record under way. */
static void
page_begin(WalBuilder *wal, unsigned flags, size_t rest)
{
    uint8_t header[40] = {0};
    bool is_long = wal->end % wal->config.segment_size == 0;

    if (wal->end % WAL_BUILDER_PAGE != 0)
        return;
    flags |= (is_long ? PAGE_LONG : 0u) | (rest > 0 ? PAGE_CONTINUES : 0u);
    put_le(header, wal->config.magic, 2);
    put_le(header + 2, flags, 2);
    put_le(header + 4, wal->config.timeline, 4);
    put_le(header + 8, wal->end, 8);
    put_le(header + 16, rest, 4);
    put_le(header + 24, wal->config.system_id, 8);
    put_le(header + 32, wal->config.segment_size, 4);
    put_le(header + 36, WAL_BUILDER_PAGE, 4);
    append(wal, header, page_header_size(wal, wal->end));
}

/* A record's bytes, cut into pages, without padding, up to the end of its `pages`-th page. */
static void
write_record(WalBuilder *wal, const uint8_t *record, size_t length, uint32_t pages)
{
    page_begin(wal, 0, 0);
    while (length > 0 && pages > 0) {
        size_t room = WAL_BUILDER_PAGE - (size_t)(wal->end % WAL_BUILDER_PAGE);
        size_t take = length < room ? length : room;

        append(wal, record, take);
        record += take;
        length -= take;
        pages--;
        if (length > 0 && pages > 0)
            page_begin(wal, 0, length);
    }
}

static uint32_t
record_crc(const uint8_t *record, size_t length)
{
    uint32_t crc = crc32c(0, record + RECORD_HEADER, length - RECORD_HEADER);

    return crc32c(crc, record, CRC_AT);
}

/* A record whose body is noise, or `body` if that is not NULL; freed by the caller. */
static uint8_t *
make_record(WalBuilder *wal, uint8_t rmgr, uint8_t info, size_t length, const uint8_t *body)
{
    uint8_t *record = calloc(1, length);

    assert(length >= RECORD_HEADER);
    must(record != NULL);
    put_le(record, length, 4);
    put_le(record + 4, 100, 4);
    put_le(record + 8, wal->previous, 8);
    record[16] = info;
    record[17] = rmgr;
    if (body != NULL)
        memcpy(record + RECORD_HEADER, body, length - RECORD_HEADER);
    for (size_t i = RECORD_HEADER; body == NULL && i < length; i++) {
        wal->noise = wal->noise * 6364136223846793005u + 1442695040888963407u;
        record[i] = (uint8_t)(wal->noise >> 56);
    }
    put_le(record + CRC_AT, record_crc(record, length), 4);
    return record;
}

static Lsn
add_record(WalBuilder *wal, uint8_t *record, size_t length)
{
    static const uint8_t zeros[8];
    Lsn lsn;

    page_begin(wal, 0, 0);
    lsn = wal->end;
    write_record(wal, record, length, UINT32_MAX);
    free(record);
    append(wal, zeros, (size_t)(-wal->end % 8));
    wal->previous = lsn;
    return lsn;
}

void
wal_builder_init(WalBuilder *wal, const WalBuilderConfig *config)
{
    *wal = (WalBuilder){.config = *config, .noise = config->start, .bytes = BUF_INIT};
    wal->begin = config->start - config->start % WAL_BUILDER_PAGE;
    wal->end = wal->begin;
    assert(config->start % 8 == 0);
    if (config->start > wal->begin) {
        page_begin(wal, 0, 0);
        wal_builder_zero(wal, config->start);
    }
}

void
wal_builder_free(WalBuilder *wal)
{
    buf_free(&wal->bytes);
}

Lsn
wal_builder_record(WalBuilder *wal, uint8_t rmgr, uint8_t info, uint32_t length)
{
    return add_record(wal, make_record(wal, rmgr, info, length, NULL), length);
}

Lsn
wal_builder_backup_end(WalBuilder *wal, Lsn backup_start)
{
    uint8_t body[10] = {255, 8}; /* short main data of 8 bytes */

    put_le(body + 2, backup_start, 8);
    return add_record(wal, make_record(wal, 0, WAL_BACKUP_END, RECORD_HEADER + sizeof body, body),
                      RECORD_HEADER + sizeof body);
}

Lsn
wal_builder_record_until(WalBuilder *wal, Lsn end)
{
    size_t length = 0;

    page_begin(wal, 0, 0);
    assert(end % 8 == 0);
    for (Lsn at = wal->end; at < end;) {
        Lsn page_end = at - at % WAL_BUILDER_PAGE + WAL_BUILDER_PAGE;

        if (at % WAL_BUILDER_PAGE == 0)
            at += page_header_size(wal, at);
        length += (size_t)((page_end < end ? page_end : end) - at);
        at = page_end;
    }
    return add_record(wal, make_record(wal, 0, WAL_NOOP, length, NULL), length);
}

Lsn
wal_builder_switch(WalBuilder *wal)
{
    Lsn lsn = wal_builder_record(wal, 0, WAL_SWITCH, RECORD_HEADER);

    wal_builder_zero(wal, wal->end + -wal->end % wal->config.segment_size);
    return lsn;
}

Lsn
wal_builder_overwrite(WalBuilder *wal, uint32_t length, uint32_t pages)
{
    uint8_t body[18] = {255, 16}; /* short main data: the lost record's LSN and a time */
    uint8_t *lost = make_record(wal, 10, 0, length, NULL);

    page_begin(wal, 0, 0);
    put_le(body + 2, wal->end, 8);
    write_record(wal, lost, length, pages);
    free(lost);
    assert(wal->end % WAL_BUILDER_PAGE == 0);
    page_begin(wal, PAGE_OVERWRITES, 0);
    return add_record(wal, make_record(wal, 0, WAL_OVERWRITE, RECORD_HEADER + sizeof body, body),
                      RECORD_HEADER + sizeof body);
}

void
wal_builder_zero(WalBuilder *wal, Lsn end)
{
    Error err = ERROR_INIT;
    size_t len = (size_t)(end - wal->end);

    assert(end >= wal->end);
    must(buf_reserve(&wal->bytes, len, &err));
    if (len > 0)
        memset(wal->bytes.data + wal->bytes.len, 0, len);
    wal->bytes.len += len;
    wal->end = end;
}

Span
wal_builder_span(const WalBuilder *wal, Lsn from, Lsn to)
{
    assert(from >= wal->begin && from <= to && to <= wal->end);
    return (Span){wal->bytes.data + (from - wal->begin), (size_t)(to - from)};
}

uint8_t *
wal_builder_at(const WalBuilder *wal, Lsn lsn)
{
    assert(lsn >= wal->begin && lsn < wal->end);
    return wal->bytes.data + (lsn - wal->begin);
}

/* The next byte of the record at *at, which moves on; page headers are stepped over. */
static uint8_t *
step(const WalBuilder *wal, Lsn *at)
{
    if (*at % WAL_BUILDER_PAGE == 0)
        *at += page_header_size(wal, *at);
    return wal_builder_at(wal, (*at)++);
}

void
wal_builder_seal(const WalBuilder *wal, Lsn lsn)
{
    size_t length = get_le32(wal_builder_at(wal, lsn));
    uint8_t *record = calloc(1, length);
    uint8_t crc[4];
    Lsn at = lsn;

    must(record != NULL);
    for (size_t i = 0; i < length; i++)
        record[i] = *step(wal, &at);
    put_le(crc, record_crc(record, length), 4);
    free(record);
    at = lsn;
    for (size_t i = 0; i < RECORD_HEADER; i++) {
        uint8_t *byte = step(wal, &at);

        if (i >= CRC_AT)
            *byte = crc[i - CRC_AT];
    }
}
