/*
 * global/pg_control (PostgreSQL: src/include/catalog/pg_control.h), servers 10 to 18.
 *
 * The layout is chosen by pg_control_version and then confirmed by the CRC. Pure.
 */
#ifndef PGSTOW_CONTROL_H
#define PGSTOW_CONTROL_H

#include "common/bytes.h"
#include "common/error.h"
#include "common/pgtypes.h"

#define CONTROL_FILE_SIZE 8192

typedef struct ControlData {
    uint64_t system_id;
    uint32_t control_version; /* 1002, 1100, 1201, 1300, 1700, 1800 */
    uint32_t catalog_version;
    uint32_t state;
    Lsn checkpoint;
    Lsn checkpoint_redo;
    TimeLineID checkpoint_timeline;
    uint32_t block_size;
    uint32_t relation_segment_blocks;
    uint32_t wal_block_size;
    uint32_t wal_segment_size;
    uint32_t data_checksum_version; /* 0: off */
} ControlData;

/* ERR_FORMAT: too short, CRC wrong; ERR_UNSUPPORTED: a version that is none of the above. */
bool control_parse(Span file, ControlData *ret_control, Error *err) MUST_USE;

#endif
