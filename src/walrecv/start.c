/*
 * Where to go on. What the archive holds comes first: a slot or the server's position would leave a
 * gap behind it. The server decides which timeline a position belongs to: its history is followed.
 *
 * An archive that ends exactly where its timeline does stays on it. The server ends that stream at
 * once and names the next timeline, whose history is fetched on the way like that of any other.
 */
#include "pgformat/walfile.h"
#include "walrecv/walrecv.h"

/* The beginning of the segment that holds `lsn`. */
static Lsn
segment_of(const WalStartFacts *facts, Lsn lsn)
{
    return wal_segment_start(wal_segment_number(lsn, facts->segment_size), facts->segment_size);
}

/* ---- behind what the archive holds ---- */

static bool
check_cluster(const WalStartFacts *facts, Error *err)
{
    uint64_t archive = facts->archive.system_id;
    uint64_t server = facts->server.system_id;

    if (archive == 0 || archive == server)
        return true;
    (void)error_set(err, ERR_MISMATCH,
                    "the archive holds WAL of the cluster with system identifier %llu, but the "
                    "server's is %llu",
                    (unsigned long long)archive, (unsigned long long)server);
    return error_hint(err, "Connect to a server of the archive's cluster, or receive into another "
                           "directory.");
}

/* The archive's timeline is not in the server's history. */
static bool
no_descendant(const WalStartFacts *facts, Error *err)
{
    TimeLineID archive = facts->archive.timeline;
    TimeLineID server = facts->server.timeline;

    if (server < archive) {
        (void)error_set(err, ERR_SERVER,
                        "the archive is on timeline %u already, but the server is on timeline %u",
                        archive, server);
        return error_hint(err, "The server is a standby that has not followed a promotion yet, or "
                               "was the primary before it. Receive from the server that was "
                               "promoted.");
    }
    (void)error_set(err, ERR_SERVER,
                    "the server's timeline %u does not descend from timeline %u, which the archive "
                    "is on",
                    server, archive);
    return error_hint(err,
                      "The server went another way before timeline %u began. Receive from a "
                      "server that follows it, or into another directory.",
                      archive);
}

static bool
check_reached(const WalStartFacts *facts, Error *err)
{
    const WalResume *archive = &facts->archive;

    if (facts->server.position >= archive->end)
        return true;
    (void)error_set(err, ERR_SERVER,
                    "the archive ends at " LSN_FORMAT " on timeline %u, but the server has WAL up "
                    "to " LSN_FORMAT " only",
                    LSN_ARGS(archive->end), archive->timeline, LSN_ARGS(facts->server.position));
    return error_hint(err, "A standby may get there by and by. A server that has lost WAL will "
                           "write other WAL there: receive that into another directory.");
}

static bool
start_behind_archive(const WalStartFacts *facts, WalStart *ret_start, Error *err)
{
    const WalResume *archive = &facts->archive;
    TimeLineID next;
    Lsn fork;

    if (!check_cluster(facts, err))
        return false;
    if (!timeline_history_find(facts->history, archive->timeline, &fork, &next))
        return no_descendant(facts, err);
    if (next != 0 && archive->end > fork) {
        *ret_start = (WalStart){.reason = WAL_START_ARCHIVE_FORK,
                                .start = segment_of(facts, fork),
                                .timeline = next,
                                .fork = fork};
        return true;
    }
    if (!check_reached(facts, err))
        return false;
    *ret_start = (WalStart){
        .reason = WAL_START_ARCHIVE, .start = archive->start, .timeline = archive->timeline};
    return true;
}

/* ---- into an empty archive ---- */

static WalStart
start_at_slot(const WalStartFacts *facts)
{
    const SlotState *slot = &facts->slot;
    TimeLineID timeline = slot->restart_timeline;

    if (timeline == 0)
        timeline = timeline_history_at(facts->history, slot->restart_lsn);
    return (WalStart){.reason = WAL_START_SLOT,
                      .start = segment_of(facts, slot->restart_lsn),
                      .timeline = timeline};
}

static WalStart
start_at_server(const WalStartFacts *facts)
{
    return (WalStart){.reason = WAL_START_SERVER,
                      .start = segment_of(facts, facts->server.position),
                      .timeline = facts->server.timeline};
}

bool
wal_start_decide(const WalStartFacts *facts, WalStart *ret_start, Error *err)
{
    if (facts->archive.found)
        return start_behind_archive(facts, ret_start, err);
    *ret_start = facts->slot.exists && facts->slot.has_position ? start_at_slot(facts)
                                                                : start_at_server(facts);
    return true;
}
