/* Names of files in an archive, other than those of segments. */
#include <string.h>

#include "archive/archive.h"

#define SEGMENT_NAME_LEN 24
#define OFFSET_LEN       8

/* What a name is without the suffix of its compression. */
static bool
cut_suffix(const char *name, char *text, size_t size, CompressionMethod *ret_compression)
{
    static const CompressionMethod methods[] = {COMPRESSION_GZIP, COMPRESSION_LZ4,
                                                COMPRESSION_ZSTD};
    CompressionMethod found = COMPRESSION_NONE;
    size_t len = strlen(name);

    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        const char *suffix = compression_suffix(methods[i]);
        size_t suffix_len = strlen(suffix);

        if (found == COMPRESSION_NONE && len > suffix_len &&
            strcmp(name + len - suffix_len, suffix) == 0) {
            found = methods[i];
            len -= suffix_len;
        }
    }
    if (len >= size)
        return false;
    memcpy(text, name, len);
    text[len] = '\0';
    *ret_compression = found;
    return true;
}

bool
archive_history_parse(const char *name, TimeLineID *ret_timeline,
                      CompressionMethod *ret_compression)
{
    char text[WAL_NAME_SIZE];
    CompressionMethod compression;

    if (!cut_suffix(name, text, sizeof text, &compression) ||
        !wal_history_parse(text, ret_timeline))
        return false;
    *ret_compression = compression;
    return true;
}

static bool
offset_parse(const char *text, uint32_t *ret_offset)
{
    uint32_t offset = 0;

    for (size_t i = 0; i < OFFSET_LEN; i++) {
        int digit = hex_digit(text[i]);

        if (digit < 0 || text[i] >= 'a')
            return false;
        offset = offset << 4 | (uint32_t)digit;
    }
    *ret_offset = offset;
    return strcmp(text + OFFSET_LEN, ".backup") == 0;
}

bool
archive_backup_parse(const char *name, uint32_t segment_size, ArchiveBackup *ret_backup)
{
    char text[WAL_NAME_SIZE + sizeof ".XXXXXXXX.backup"];
    char segment[SEGMENT_NAME_LEN + 1];
    ArchiveBackup backup = {.name = name};

    if (!cut_suffix(name, text, sizeof text, &backup.compression) ||
        strlen(text) <= SEGMENT_NAME_LEN || text[SEGMENT_NAME_LEN] != '.')
        return false;
    memcpy(segment, text, SEGMENT_NAME_LEN);
    segment[SEGMENT_NAME_LEN] = '\0';
    if (!wal_segment_parse(segment, segment_size, &backup.timeline, &backup.number) ||
        !offset_parse(text + SEGMENT_NAME_LEN + 1, &backup.offset) || backup.offset >= segment_size)
        return false;
    *ret_backup = backup;
    return true;
}
