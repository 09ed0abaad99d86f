/*
 * recorder: the last sink of a chain under test; it writes down what reaches it.
 *
 * `text` has one line per event, so that two runs compare with strcmp and a difference reads well:
 *     archive base.tar 0
 *     file PG_VERSION size=3 mode=0600 mtime=1700000000
 *     data 3 crc=8A9136AA
 *     end complete
 * Adjacent DATA events make up one line: how bytes are cut into pieces does not show there, only in
 * `data_events`. `bytes` is all DATA one after the other.
 *
 * The Recording belongs to the test and outlives the sink. Behind a handoff it is written by the
 * worker: the test looks at it after sink_finish or sink_free.
 */
#ifndef PGSTOW_TESTS_RECORDER_H
#define PGSTOW_TESTS_RECORDER_H

#include "common/bytes.h"
#include "stream/stream.h"

typedef struct Recording {
    Buf text;
    Buf bytes;
    size_t events;      /* that arrived, a failing one included */
    size_t data_events; /* of them DATA */
    bool finished;      /* finish arrived */
    size_t released;    /* how often the sink was freed: 1 at the end of every test */

    /* ---- set by the test, before it starts ---- */
    bool headers;     /* entry lines end with the tar header's checksum: " header=8A9136AA" or
                       * " header=none"; archive lines with " of=NAME" where it was compressed */
    size_t fail_at;   /* this event (from 1) fails with ERR_SYSTEM, EIO; 0: none */
    bool fail_finish; /* finish fails likewise */
    /* Called first with every event, and with NULL at finish; may wait; its failure is the sink's.
     */
    bool (*hook)(void *ctx, const Event *event, Error *err);
    void *ctx;

    /* ---- its own ---- */
    uint64_t run; /* bytes of the DATA line that is not written yet */
    uint32_t run_crc;
} Recording;

#define RECORDING_INIT ((Recording){.text = BUF_INIT})

Sink *recorder_new(Recording *recording, Error *err) MUST_USE;

/* The text, with the DATA line that is still open. */
const char *recording_text(Recording *recording);
void recording_free(Recording *recording);

#endif
