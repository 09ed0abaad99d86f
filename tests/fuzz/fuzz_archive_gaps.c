/* The file of known gaps: what is read as a gap is one, and can be found again. */
#include <stdlib.h>

#include "archive/archive.h"
#include "fuzz/fuzz.h"

static void
must(bool holds)
{
    if (!holds)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ArchiveGaps gaps;
    Error err = ERROR_INIT;

    if (archive_gaps_parse(&gaps, (Span){data, size}, &err)) {
        for (size_t i = 0; i < gaps.count; i++) {
            const ArchiveGap *gap = &gaps.gaps[i];

            must(gap->start < gap->end && gap->reason[0] != '\0');
            must(archive_gaps_find(&gaps, gap->timeline, gap->start, gap->end) != NULL);
        }
    } else {
        must(err.code == ERR_FORMAT || err.code == ERR_MEMORY);
    }
    archive_gaps_free(&gaps);
    return 0;
}
