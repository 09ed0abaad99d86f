#include "pgformat/control.h"

#include "common/crc32c.h"
#include "pgformat/walfile.h"

/* Where the fields are that have moved between versions. */
typedef struct ControlLayout {
    uint32_t version;
    uint32_t checkpoint; /* the copy of the checkpoint record: redo LSN, then the timeline */
    uint32_t block_size; /* four numbers: block, relation segment, WAL block and WAL segment size */
    uint32_t data_checksum_version;
    uint32_t crc; /* covers all before it */
} ControlLayout;

static const ControlLayout layouts[] = {
    {1002, 48, 216, 252, 288}, /* 10 */
    {1100, 40, 208, 244, 280}, /* 11 */
    {1201, 40, 216, 252, 288}, /* 12 */
    {1300, 40, 216, 252, 288}, /* 13 to 16 */
    {1700, 40, 216, 252, 288}, /* 17 */
    {1800, 40, 216, 252, 292}, /* 18 */
};

/* What has been where it is in every version. */
#define AT_SYSTEM_ID       0
#define AT_CONTROL_VERSION 8
#define AT_CATALOG_VERSION 12
#define AT_STATE           16
#define AT_CHECKPOINT      32
#define FIXED_SIZE         40

static const ControlLayout *
layout_find(uint32_t version)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        if (layouts[i].version == version)
            return &layouts[i];
    }
    return NULL;
}

static bool
block_size_valid(uint32_t size)
{
    return size >= 1024 && size <= 65536 && (size & (size - 1)) == 0;
}

/* Others divide by these sizes: a matching CRC alone does not make them safe. */
static bool
sizes_check(const ControlData *control, Error *err)
{
    if (!block_size_valid(control->block_size))
        return error_set(err, ERR_FORMAT, "invalid block size %u in control file",
                         control->block_size);
    if (control->relation_segment_blocks == 0)
        return error_set(err, ERR_FORMAT, "invalid relation segment size 0 in control file");
    if (!block_size_valid(control->wal_block_size))
        return error_set(err, ERR_FORMAT, "invalid WAL block size %u in control file",
                         control->wal_block_size);
    if (!wal_segment_size_valid(control->wal_segment_size))
        return error_set(err, ERR_FORMAT, "invalid WAL segment size %u in control file",
                         control->wal_segment_size);
    return true;
}

bool
control_parse(Span file, ControlData *ret_control, Error *err)
{
    const uint8_t *at = file.data;
    const ControlLayout *layout;
    ControlData control;
    uint32_t version;

    if (file.len < FIXED_SIZE)
        return error_set(err, ERR_FORMAT, "control file is too short: %zu bytes", file.len);
    version = get_le32(at + AT_CONTROL_VERSION);
    layout = layout_find(version);
    if (layout == NULL)
        return error_set(err, ERR_UNSUPPORTED, "unsupported control file version %u", version);
    if (file.len < (size_t)layout->crc + 4)
        return error_set(err, ERR_FORMAT, "control file is too short: %zu bytes", file.len);
    if (crc32c(0, at, layout->crc) != get_le32(at + layout->crc))
        return error_set(err, ERR_FORMAT, "CRC is incorrect");

    control = (ControlData){
        .system_id = get_le64(at + AT_SYSTEM_ID),
        .control_version = version,
        .catalog_version = get_le32(at + AT_CATALOG_VERSION),
        .state = get_le32(at + AT_STATE),
        .checkpoint = get_le64(at + AT_CHECKPOINT),
        .checkpoint_redo = get_le64(at + layout->checkpoint),
        .checkpoint_timeline = get_le32(at + layout->checkpoint + 8),
        .block_size = get_le32(at + layout->block_size),
        .relation_segment_blocks = get_le32(at + layout->block_size + 4),
        .wal_block_size = get_le32(at + layout->block_size + 8),
        .wal_segment_size = get_le32(at + layout->block_size + 12),
        .data_checksum_version = get_le32(at + layout->data_checksum_version),
    };
    if (!sizes_check(&control, err))
        return false;
    *ret_control = control;
    return true;
}
