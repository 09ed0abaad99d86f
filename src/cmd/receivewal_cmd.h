/*
 * The parts of "pgstow receivewal": its command line, where a stream begins, and the loop. Private
 * to its files.
 */
#ifndef PGSTOW_RECEIVEWAL_CMD_H
#define PGSTOW_RECEIVEWAL_CMD_H

#include <stdint.h>

#include "cmd/compress_option.h"
#include "cmd/connect.h"
#include "cmd/options.h"
#include "walrecv/walrecv.h"

/* What the program ends with besides 0 and 1, which are those of the stock tool. */
#define RECEIVE_EXIT_LOST    3 /* WAL that is needed is gone from the server, or the slot is */
#define RECEIVE_EXIT_DAMAGED 4 /* WAL comes damaged from the server, again and again */

/* ---- receivewal_options.c: the command line ---- */

extern const Option receivewal_options[];

/* What the command line asks for. */
typedef struct ReceiveRequest {
    ConnConfig conn;
    const char *directory;
    const char *slot;
    const char *status_file; /* NULL: none */
    Lsn end;                 /* LSN_INVALID: none */
    int64_t status_interval_ms;
    int64_t receive_timeout_ms; /* 0: wait for ever */
    Compression compression;
    bool create_slot;
    bool drop_slot;
    bool if_not_exists;
    bool accept_gap;
    bool no_loop;
    bool no_sync;
    bool synchronous;
    bool verbose;
    PasswordAnswer password;

    CompressOption compress_option; /* owned */
} ReceiveRequest;

/* Read and check the command line; what is wrong has been printed. The request stays where it is;
 * free it in any case. */
OptionResult receive_request_read(ReceiveRequest *request, const Command *command, int argc,
                                  char **argv);
void receive_request_free(ReceiveRequest *request);

/* ---- receivewal_start.c: where a stream begins ---- */

/* What a run has learned, over all its connections. Starts as all zero. */
typedef struct ReceiveKnown {
    uint64_t system_id; /* of the server; 0: none was reached yet */
    bool holes_told;
    bool slot_unknown_told;
    Lsn gap_end; /* what is missing before it is accepted as missing; 0: nothing */
    TimeLineID gap_timeline;
} ReceiveKnown;

/* What to stream over a connection, into which files. */
typedef struct StreamPlan {
    ServerIdentity server;
    uint32_t segment_size;
    mode_t file_mode;
    WalStart start;
    Lsn first;     /* what the server sends first: behind the tail */
    WalTail *tail; /* owned; NULL: nothing */
} StreamPlan;

/* Asks the server and looks through the archive; what is unusual there has been printed. */
bool stream_plan_make(const ReceiveRequest *request, ReceiveKnown *known, Conn *conn,
                      StreamPlan *ret_plan, Error *err) MUST_USE;
void stream_plan_free(StreamPlan *plan);

/* WAL that a server does not have any more. */
typedef struct WalGap {
    TimeLineID timeline;
    Lsn start;
    TimeLineID end_timeline; /* which the WAL behind the gap is on */
    Lsn end;                 /* the beginning of a segment; not behind `start`: there is no gap */
    uint64_t segments;       /* how many are missing, wholly or in part */
} WalGap;

/* Where the server's WAL goes on behind `start`, over a connection of its own. */
bool wal_gap_find(const ReceiveRequest *request, TimeLineID timeline, Lsn start, WalGap *ret_gap,
                  Error *err) MUST_USE;

/* ---- receivewal_loop.c: again and again, until told to stop ---- */

/* On failure *ret_status is what the program shall end with. */
bool receive_loop(const ReceiveRequest *request, const Stop *stop, int *ret_status,
                  Error *err) MUST_USE;

#endif
