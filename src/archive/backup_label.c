/* backup_label (PostgreSQL: access/transam/xlogbackup.c): where a backup's recovery begins. */
#include <string.h>

#include "archive/archive.h"

#define FILE_NAME_LEN 24

/* Such a file has a few hundred bytes. */
#define LINE_SIZE 256

static bool
first_line(Span text, char line[LINE_SIZE])
{
    const uint8_t *end = text.len == 0 ? NULL : memchr(text.data, '\n', text.len);
    size_t len = end == NULL ? LINE_SIZE : (size_t)(end - text.data);

    if (len >= LINE_SIZE)
        return false;
    memcpy(line, text.data, len);
    line[len] = '\0';
    return true;
}

/* "X/X (file XXXXXXXXXXXXXXXXXXXXXXXX)"; it is cut into pieces. */
static bool
parse_place(char *place, BackupWal *wal)
{
    static const char between[] = " (file ";
    char *file = strstr(place, between);
    uint64_t number;

    if (file == NULL)
        return false;
    *file = '\0';
    file += strlen(between);
    if (strlen(file) != FILE_NAME_LEN + 1 || file[FILE_NAME_LEN] != ')')
        return false;
    file[FILE_NAME_LEN] = '\0';
    /* The smallest size has the most segments: their names take in those of all others. */
    if (!lsn_parse(place, &wal->start) || wal->start == LSN_INVALID ||
        !wal_segment_parse(file, WAL_SEGMENT_SIZE_MIN, &wal->timeline, &number))
        return false;
    memcpy(wal->first_file, file, FILE_NAME_LEN + 1);
    return true;
}

bool
backup_label_parse(Span text, BackupWal *ret_wal, Error *err)
{
    static const char key[] = "START WAL LOCATION: ";
    BackupWal wal = {.end = LSN_INVALID};
    char line[LINE_SIZE];

    if (!first_line(text, line) || strncmp(line, key, strlen(key)) != 0 ||
        !parse_place(line + strlen(key), &wal))
        return error_set(err, ERR_FORMAT, "it does not begin with a valid START WAL LOCATION");
    *ret_wal = wal;
    return true;
}
