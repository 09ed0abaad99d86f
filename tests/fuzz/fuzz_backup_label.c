/*
 * A backup_label: what is accepted says what scanf finds there, as the server reads it; what is
 * refused is an error of its format.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "archive/archive.h"
#include "fuzz/fuzz.h"

static void
must(bool holds)
{
    if (!holds)
        abort();
}

static void
compare(const BackupWal *wal, const uint8_t *data, size_t size)
{
    char text[512];
    char file[25];
    unsigned high;
    unsigned low;
    unsigned timeline;
    char newline;
    size_t len = size < sizeof text - 1 ? size : sizeof text - 1;

    memcpy(text, data, len);
    text[len] = '\0';
    must(sscanf(text, "START WAL LOCATION: %X/%X (file %8X%16s)%c", &high, &low, &timeline, file,
                &newline) == 5);
    must(newline == '\n');
    must(wal->start == ((Lsn)high << 32 | low) && wal->timeline == timeline);
    must(strlen(wal->first_file) == 24 && strcmp(wal->first_file + 8, file) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BackupWal wal = {.timeline = 0};
    Error err = ERROR_INIT;

    if (backup_label_parse((Span){data, size}, &wal, &err)) {
        must(err.code == ERR_NONE && wal.timeline != 0 && wal.start != LSN_INVALID);
        compare(&wal, data, size);
    } else {
        must(wal.timeline == 0 && err.code == ERR_FORMAT && err.message[0] != '\0');
    }
    return 0;
}
