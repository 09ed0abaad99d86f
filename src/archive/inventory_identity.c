/*
 * What segments have in common: their size, and the cluster that they are from.
 *
 * Names cannot be read without the segment size, and one file cannot be trusted with it: it may be
 * damaged or of another cluster. So some of them, spread over the archive, are asked; whose header
 * says what its file's name says has a vote, and the majority decides.
 */
#include "archive/internal.h"

#define VOTERS 17

#define USUAL_SEGMENT_SIZE ((uint32_t)16 << 20)

typedef struct Vote {
    uint64_t value;
    size_t count;
} Vote;

typedef struct Poll {
    Vote votes[VOTERS];
    size_t count;
} Poll;

static void
vote(Poll *poll, uint64_t value)
{
    size_t i = 0;

    while (i < poll->count && poll->votes[i].value != value)
        i++;
    if (i == VOTERS)
        return;
    if (i == poll->count)
        poll->votes[poll->count++] = (Vote){.value = value};
    poll->votes[i].count++;
}

/* Of equal numbers of votes the first; 0 without any. */
static uint64_t
winner(const Poll *poll)
{
    Vote best = {.value = 0};

    for (size_t i = 0; i < poll->count; i++) {
        if (poll->votes[i].count > best.count)
            best = poll->votes[i];
    }
    return best.value;
}

/* A name that is a segment's with some segment size is one with the smallest. */
static bool
may_be_segment(const DirectoryEntry *entry, WalSegmentFile *ret_file)
{
    return wal_segment_file_parse(entry->name, WAL_SEGMENT_SIZE_MIN, ret_file);
}

static size_t
count_segments(const DirectoryEntries *entries)
{
    size_t count = 0;

    for (size_t i = 0; i < entries->count; i++) {
        WalSegmentFile file;

        count += may_be_segment(&entries->entries[i], &file);
    }
    return count;
}

/* A file that cannot be read has no vote. */
static bool
ask(const char *directory, const WalSegmentFile *file, Poll *sizes, Poll *systems, Error *err)
{
    const SegmentPlace place = {.directory = directory, .segment_size = WAL_SEGMENT_SIZE_MIN};
    Error failure = ERROR_INIT;
    WalLongHeader header;
    bool fits;

    if (!segment_header(&place, file, &header, &fits, &failure)) {
        if (failure.code == ERR_SYSTEM)
            return true;
        *err = failure;
        return false;
    }
    if (fits) {
        vote(sizes, header.segment_size);
        vote(systems, header.system_id);
    }
    return true;
}

/* Of `count` segments those that are asked: the first, the last, and some between them. */
static bool
is_asked(size_t index, size_t count)
{
    size_t step = (count + VOTERS - 2) / (VOTERS - 1);

    return index % step == 0 || index == count - 1;
}

static bool
ask_some(const char *directory, const DirectoryEntries *entries, size_t count, Poll *sizes,
         Poll *systems, Error *err)
{
    size_t index = 0;

    for (size_t i = 0; i < entries->count; i++) {
        WalSegmentFile file;

        if (!may_be_segment(&entries->entries[i], &file))
            continue;
        if (is_asked(index, count) && !ask(directory, &file, sizes, systems, err))
            return false;
        index++;
    }
    return true;
}

/* No header tells: then the size of most plain files that could be segments. */
static uint32_t
size_by_files(const DirectoryEntries *entries)
{
    Poll sizes = {.count = 0};

    for (size_t i = 0; i < entries->count; i++) {
        const DirectoryEntry *entry = &entries->entries[i];
        WalSegmentFile file;

        if (entry->regular && wal_segment_size_valid(entry->bytes) &&
            may_be_segment(entry, &file) && file.compression == COMPRESSION_NONE)
            vote(&sizes, entry->bytes);
    }
    return sizes.count == 0 ? USUAL_SEGMENT_SIZE : (uint32_t)winner(&sizes);
}

bool
archive_identity_find(const char *directory, const DirectoryEntries *entries,
                      ArchiveIdentity *ret_identity, Error *err)
{
    ArchiveIdentity identity = {.segment_size = 0};
    size_t count = count_segments(entries);
    Poll sizes = {.count = 0};
    Poll systems = {.count = 0};

    if (count > 0) {
        if (!ask_some(directory, entries, count, &sizes, &systems, err))
            return false;
        identity.system_id = winner(&systems);
        identity.segment_size = sizes.count > 0 ? (uint32_t)winner(&sizes) : size_by_files(entries);
    }
    *ret_identity = identity;
    return true;
}
