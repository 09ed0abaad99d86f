/* Under which names a segment lies in an archive. */
#include <stdio.h>
#include <string.h>

#include "segment/segment.h"

#define SEGMENT_NAME_LEN 24

static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                            COMPRESSION_ZSTD};

/* What stands behind the segment's own name. */
static bool
suffix_parse(const char *text, WalSegmentFile *file)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        const char *suffix = compression_suffix(methods[i]);
        size_t len = strlen(suffix);

        if (strncmp(text, suffix, len) != 0)
            continue;
        file->compression = methods[i];
        file->partial = strcmp(text + len, ".partial") == 0;
        if (file->partial || text[len] == '\0')
            return true;
    }
    return false;
}

bool
wal_segment_file_parse(const char *name, uint32_t segment_size, WalSegmentFile *ret_file)
{
    char segment[SEGMENT_NAME_LEN + 1];
    size_t len = strnlen(name, SEGMENT_NAME_LEN);
    WalSegmentFile file;

    memcpy(segment, name, len);
    segment[len] = '\0';
    if (!wal_segment_parse(segment, segment_size, &file.timeline, &file.number) ||
        !suffix_parse(name + len, &file))
        return false;
    *ret_file = file;
    return true;
}

void
wal_segment_file_name(char name[WAL_SEGMENT_FILE_SIZE], const WalSegmentFile *file,
                      uint32_t segment_size)
{
    char segment[WAL_NAME_SIZE];

    wal_segment_name(segment, file->timeline, file->number, segment_size);
    (void)snprintf(name, WAL_SEGMENT_FILE_SIZE, "%s%s%s", segment,
                   compression_suffix(file->compression), file->partial ? ".partial" : "");
}
