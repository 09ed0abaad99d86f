#include "unit/served_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "pgformat/control.h"
#include "support/compressed.h"

#define MAGIC 0xD118
#define HEAP  10 /* a resource manager whose records nobody looks into */

/* Of a server of version 10. */
static const char control_hex[] =
    "c590bee86645006bea030000cbce050c06000000000000004646006b000000006000000900000000f08b"
    "720800000000280000090000000002000000020000000100000000000000370200001d60000001000000"
    "00000000240200000100000001000000010000004646006b000000000000000000000000370200000000"
    "000001000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000100000000000000640000000800000000000000400000000000000008000000000000000000"
    "000087d63241002000000000020000200000000000014000000020000000cc0700000008000001010000"
    "01000000fecbebc05d4533f6a2cdd2647331d4b2582972920527ef06ddaad1c416d5922ed96c9c43";

static void
put_control(Served *here)
{
    uint8_t control[CONTROL_FILE_SIZE] = {0};

    assert_true(hex_parse(control_hex, strlen(control_hex), control, (sizeof control_hex - 1) / 2));
    temp_dir_write(&here->dir, "data/global/pg_control", control, sizeof control);
}

static void
fill(WalBuilder *wal, Lsn end)
{
    while (wal->end < end)
        (void)wal_builder_record(wal, HEAP, 0, 24 + (uint32_t)(wal->noise % 9000));
}

void
served_other_wal(WalBuilder *wal, uint64_t system_id, TimeLineID timeline)
{
    wal_builder_init(wal, &(WalBuilderConfig){.magic = MAGIC,
                                              .timeline = timeline,
                                              .system_id = system_id,
                                              .segment_size = MB,
                                              .start = MB});
    fill(wal, (SERVED_LAST + 1) * (Lsn)MB + WAL_BUILDER_PAGE);
}

int
served_set_up(void **state)
{
    static Served here;

    here = (Served){.err = ERROR_INIT};
    temp_dir_make(&here.dir);
    temp_dir_mkdir(&here.dir, "archive");
    temp_dir_mkdir(&here.dir, "data/pg_wal");
    temp_dir_mkdir(&here.dir, "data/global");
    temp_dir_write(&here.dir, "archive/stray", "", 0);
    put_control(&here);
    served_other_wal(&here.wal, SERVED_SYSTEM, 1);
    *state = &here;
    return 0;
}

int
served_tear_down(void **state)
{
    Served *here = *state;

    wal_builder_free(&here->wal);
    temp_dir_remove(&here->dir);
    return 0;
}

const char *
served_name(TimeLineID timeline, uint64_t number)
{
    static char names[64][WAL_NAME_SIZE];
    static size_t next;
    char *name = names[next++ % 64];

    wal_segment_name(name, timeline, number, MB);
    return name;
}

Span
served_segment(const Served *here, uint64_t number)
{
    return wal_builder_span(&here->wal, number * MB, (number + 1) * MB);
}

void
served_put(Served *here, const char *name, CompressionMethod compression, Span bytes)
{
    Buf packed;

    if (compression == COMPRESSION_NONE) {
        temp_dir_write(&here->dir, name, bytes.data, bytes.len);
        return;
    }
    packed = compressed(compression, bytes);
    temp_dir_write(&here->dir, name, packed.data, packed.len);
    buf_free(&packed);
}

bool
served_fetch(Served *here, const char *name, const char *spool)
{
    const ArchiveFetch fetch = {
        .directory = temp_dir_path(&here->dir, "archive"),
        .name = name,
        .path = temp_dir_path(&here->dir, "data/pg_wal/RECOVERYXLOG"),
        .spool = spool == NULL ? NULL : temp_dir_path(&here->dir, spool),
    };

    here->err = ERROR_INIT;
    here->fetched = (ArchiveFetched){.found = false};
    return archive_fetch(&fetch, &here->fetched, &here->err);
}

static void
assert_no_temporary_file(Served *here)
{
    assert_false(temp_dir_exists(&here->dir, "data/pg_wal/RECOVERYXLOG.pgstow.tmp"));
}

void
assert_served(Served *here, const char *name, Span bytes)
{
    Buf content;

    if (!served_fetch(here, name, NULL))
        fail_msg("%s: %s", name, here->err.message);
    if (!here->fetched.found)
        fail_msg("%s: not found (%s)", name, here->fetched.remark);
    content = temp_dir_read(&here->dir, "data/pg_wal/RECOVERYXLOG");
    assert_int_equal(content.len, bytes.len);
    if (bytes.len > 0)
        assert_memory_equal(content.data, bytes.data, bytes.len);
    buf_free(&content);
    assert_no_temporary_file(here);
}

void
assert_missing(Served *here, const char *name)
{
    if (!served_fetch(here, name, NULL))
        fail_msg("%s: %s", name, here->err.message);
    assert_false(here->fetched.found);
    assert_no_temporary_file(here);
}

void
assert_trouble(Served *here, const char *name, ErrorCode code, const char *text)
{
    bool ok = served_fetch(here, name, NULL);

    if (ok || here->err.code != code || strstr(here->err.message, text) == NULL)
        fail_msg("%s: %s, code %d: %s", name, ok ? "succeeded" : "failed", (int)here->err.code,
                 here->err.message);
    assert_no_temporary_file(here);
}
