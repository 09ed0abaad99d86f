/* The grammar of the stream, the death of a sink, the ownership of a chain, the durable mark. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/runtime.h"
#include "stream/internal.h"
#include "stream/stage.h"
#include "support/huge_allocation.h"
#include "support/recorder.h"

static const Archive base = {.name = "base.tar"};
static const Entry file = {
    .kind = ENTRY_FILE, .path = "PG_VERSION", .size = 3, .mode = 0600, .mtime = 7};

/* ---- a stage between, that counts ---- */

typedef struct Counter {
    Sink sink;
    size_t *released;
    bool push_at_finish; /* sends a whole archive then */
    bool fail_finish;
} Counter;

static bool
counter_push(Sink *self, const Event *event, Error *err)
{
    return sink_forward(self, event, err);
}

static bool
counter_finish(Sink *self, Error *err)
{
    const Counter *counter = (Counter *)self;

    if (counter->fail_finish)
        return error_set(err, ERR_FORMAT, "counter could not finish");
    if (!counter->push_at_finish)
        return true;
    return sink_archive_begin(self->next, &(Archive){.name = "late"}, err) &&
           sink_archive_end(self->next, err);
}

static void
counter_release(Sink *self)
{
    ++*((Counter *)self)->released;
}

static const SinkOps counter_ops = {
    .name = "counter", .push = counter_push, .finish = counter_finish, .release = counter_release};

static Counter *
counter_new(Sink *next, size_t *released, Error *err)
{
    Counter *counter = sink_alloc(sizeof *counter, &counter_ops, next, err);

    if (counter != NULL)
        counter->released = released;
    return counter;
}

/* A stage without finish and release. */
static const SinkOps plain_ops = {.name = "plain", .push = counter_push};

/* ---- what the grammar allows ---- */

static void
test_stream_of_both_kinds_of_archive_passes(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);

    (void)state;
    assert_non_null(sink);
    assert_true(sink_flush(sink, 0x1600000001, &err));
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_entry_begin(sink, &file, &err));
    assert_true(sink_data(sink, span_of("1"), &err));
    assert_true(sink_flush(sink, 5, &err));
    assert_true(sink_data(sink, span_of("8"), &err));
    assert_true(sink_data(sink, span_of("\n"), &err));
    assert_true(sink_entry_end(sink, true, &err));
    assert_true(sink_entry_begin(
        sink,
        &(Entry){
            .kind = ENTRY_SYMLINK, .path = "pg_tblspc/16385", .link_target = "/ts", .mode = 0777},
        &err));
    assert_true(sink_entry_end(sink, false, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(
        sink_archive_begin(sink, &(Archive){.name = "16385.tar", .tablespace = 16385}, &err));
    assert_true(sink_data(sink, span_of("opaque"), &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &(Archive){.name = "empty"}, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording), "flush 16/1\n"
                                                    "archive base.tar 0\n"
                                                    "file PG_VERSION size=3 mode=0600 mtime=7\n"
                                                    "data 1 crc=90F599E3\n"
                                                    "flush 0/5\n"
                                                    "data 2 crc=47D98ED1\n"
                                                    "end complete\n"
                                                    "symlink pg_tblspc/16385 -> /ts size=0 "
                                                    "mode=0777 mtime=0\n"
                                                    "end cut short\n"
                                                    "archive end\n"
                                                    "archive 16385.tar 16385\n"
                                                    "data 6 crc=7D0CB4CB\n"
                                                    "archive end\n"
                                                    "archive empty 0\n"
                                                    "archive end\n"
                                                    "finish\n");
    assert_int_equal(recording.bytes.len, 9);
    assert_memory_equal(recording.bytes.data, "18\nopaque", 9);
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_data_of_no_bytes_is_nothing(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);

    (void)state;
    /* Even where data would not be allowed. */
    assert_true(sink_data(sink, (Span){.data = NULL, .len = 0}, &err));
    assert_int_equal(recording.events, 0);
    sink_free(sink);
    recording_free(&recording);
}

/* ---- what it forbids ---- */

typedef enum Step {
    STEP_END, /* of the list */
    ARCHIVE_BEGIN,
    ARCHIVE_END,
    ENTRY_BEGIN,
    ENTRY_END,
    DATA,
    EMPTY_DATA,
    NULL_DATA,
    FLUSH,
    FINISH,
    ARCHIVE_NULL,
    ARCHIVE_NAMELESS,
    ENTRY_NULL,
    ENTRY_NAMELESS,
    UNKNOWN
} Step;

static bool
take_step(Sink *sink, Step step, Error *err)
{
    Event event = {.kind = EVENT_DATA};
    int unknown = 99; /* through an int: no compiler shall know */

    switch (step) {
    case ARCHIVE_BEGIN:
        return sink_archive_begin(sink, &base, err);
    case ARCHIVE_END:
        return sink_archive_end(sink, err);
    case ENTRY_BEGIN:
        return sink_entry_begin(sink, &file, err);
    case ENTRY_END:
        return sink_entry_end(sink, true, err);
    case DATA:
        return sink_data(sink, span_of("x"), err);
    case EMPTY_DATA:
        event.data = (Span){.data = (const uint8_t *)"", .len = 0};
        return sink_push(sink, &event, err);
    case NULL_DATA:
        event.data = (Span){.data = NULL, .len = 1};
        return sink_push(sink, &event, err);
    case FLUSH:
        return sink_flush(sink, 1, err);
    case FINISH:
        return sink_finish(sink, err);
    case ARCHIVE_NULL:
        return sink_archive_begin(sink, NULL, err);
    case ARCHIVE_NAMELESS:
        return sink_archive_begin(sink, &(Archive){.name = NULL}, err);
    case ENTRY_NULL:
        return sink_entry_begin(sink, NULL, err);
    case ENTRY_NAMELESS:
        return sink_entry_begin(sink, &(Entry){.path = NULL}, err);
    case UNKNOWN:
        memcpy(&event.kind, &unknown, sizeof event.kind);
        return sink_push(sink, &event, err);
    case STEP_END:
        break;
    }
    return true;
}

/* Steps of which only the last is wrong. */
typedef struct Violation {
    Step steps[8];
    const char *message;
} Violation;

static const Violation violations[] = {
    {{DATA}, "stage \"recorder\" got data outside an archive"},
    {{ENTRY_BEGIN}, "stage \"recorder\" got the begin of an entry outside an archive"},
    {{ENTRY_END}, "stage \"recorder\" got the end of an entry outside an archive"},
    {{ARCHIVE_END}, "stage \"recorder\" got the end of an archive outside an archive"},
    {{ARCHIVE_NULL}, "stage \"recorder\" got an archive without a name"},
    {{ARCHIVE_NAMELESS}, "stage \"recorder\" got an archive without a name"},
    {{UNKNOWN}, "stage \"recorder\" got an event of unknown kind 99"},
    {{EMPTY_DATA}, "stage \"recorder\" got data outside an archive"},
    {{ARCHIVE_BEGIN, ARCHIVE_BEGIN},
     "stage \"recorder\" got the begin of an archive within an archive"},
    {{ARCHIVE_BEGIN, ENTRY_END}, "stage \"recorder\" got the end of an entry within an archive"},
    {{ARCHIVE_BEGIN, EMPTY_DATA}, "stage \"recorder\" got empty data"},
    {{ARCHIVE_BEGIN, NULL_DATA}, "stage \"recorder\" got empty data"},
    {{ARCHIVE_BEGIN, ENTRY_NULL}, "stage \"recorder\" got an entry without a path"},
    {{ARCHIVE_BEGIN, ENTRY_NAMELESS}, "stage \"recorder\" got an entry without a path"},
    {{ARCHIVE_BEGIN, FINISH}, "stage \"recorder\" got the end of the stream within an archive"},
    {{ARCHIVE_BEGIN, DATA, ENTRY_BEGIN}, "stage \"recorder\" got an entry in an opaque archive"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, ENTRY_BEGIN},
     "stage \"recorder\" got the begin of an entry within an entry"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, ARCHIVE_BEGIN},
     "stage \"recorder\" got the begin of an archive within an entry"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, ARCHIVE_END},
     "stage \"recorder\" got the end of an archive within an entry"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, EMPTY_DATA}, "stage \"recorder\" got empty data"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, FINISH},
     "stage \"recorder\" got the end of the stream within an entry"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, ENTRY_END, DATA}, "stage \"recorder\" got data between entries"},
    {{ARCHIVE_BEGIN, ENTRY_BEGIN, ENTRY_END, ENTRY_END},
     "stage \"recorder\" got the end of an entry within an archive"},
    /* One archive's kind does not bind the next one. */
    {{ARCHIVE_BEGIN, DATA, ARCHIVE_END, ARCHIVE_BEGIN, ENTRY_BEGIN, ENTRY_END, DATA},
     "stage \"recorder\" got data between entries"},
    {{FINISH, FINISH}, "stage \"recorder\" got the end of the stream after the end of the stream"},
    {{FINISH, ARCHIVE_BEGIN},
     "stage \"recorder\" got the begin of an archive after the end of the stream"},
    {{FINISH, FLUSH}, "stage \"recorder\" got a flush after the end of the stream"},
    {{FINISH, DATA}, "stage \"recorder\" got data after the end of the stream"},
};

static void
check_violation(const Violation *violation)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);
    size_t last = 0;
    size_t before;

    while (last + 1 < 8 && violation->steps[last + 1] != STEP_END)
        last++;
    for (size_t i = 0; i < last; i++)
        assert_true(take_step(sink, violation->steps[i], &err));
    before = recording.events;
    assert_false(take_step(sink, violation->steps[last], &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, violation->message);
    assert_int_equal(recording.events, before); /* the stage has not seen it */
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_grammar_violations_are_bugs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof violations / sizeof violations[0]; i++)
        check_violation(&violations[i]);
}

/* ---- death ---- */

static void
test_dead_sink_repeats_its_first_error(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Error later;
    Sink *sink = recorder_new(&recording, &err);

    (void)state;
    recording.fail_at = 2;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_false(sink_data(sink, span_of("x"), &err));
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, EIO);
    for (Step step = ARCHIVE_BEGIN; step <= UNKNOWN; step++) {
        later = ERROR_INIT;
        assert_false(take_step(sink, step, &later));
        assert_memory_equal(&later, &err, sizeof err);
    }
    assert_int_equal(recording.events, 2);
    assert_false(recording.finished);
    sink_free(sink);
    recording_free(&recording);
}

static void
test_grammar_violation_kills_too(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);

    (void)state;
    assert_false(sink_archive_end(sink, &err));
    assert_false(sink_archive_begin(sink, &base, &err));
    assert_string_equal(err.message,
                        "stage \"recorder\" got the end of an archive outside an archive");
    assert_false(sink_finish(sink, &err));
    assert_int_equal(recording.events, 0);
    sink_free(sink);
    recording_free(&recording);
}

static void
test_sink_die_keeps_the_first(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);

    (void)state;
    (void)error_set(&err, ERR_FORMAT, "first");
    assert_false(sink_die(sink, &err));
    (void)error_set(&err, ERR_SERVER, "second");
    assert_false(sink_die(sink, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.message, "first");
    sink_free(sink);
    recording_free(&recording);
}

/* ---- chains ---- */

static void
test_chain_forwards_and_is_freed_once(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    size_t released = 0;
    Counter *counter = counter_new(recorder_new(&recording, &err), &released, &err);
    Sink *head = sink_alloc(sizeof(Sink), &plain_ops, &counter->sink, &err);

    (void)state;
    counter->push_at_finish = true;
    assert_true(sink_archive_begin(head, &base, &err));
    assert_true(sink_archive_end(head, &err));
    assert_true(sink_finish(head, &err));
    /* What a stage pushes in its finish arrives before its next one finishes. */
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n"
                                                    "archive end\n"
                                                    "archive late 0\n"
                                                    "archive end\n"
                                                    "finish\n");
    sink_free(head);
    assert_int_equal(released, 1);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_failed_finish_stops_the_chain(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    size_t released = 0;
    Counter *counter = counter_new(recorder_new(&recording, &err), &released, &err);

    (void)state;
    counter->fail_finish = true;
    assert_false(sink_finish(&counter->sink, &err));
    assert_string_equal(err.message, "counter could not finish");
    assert_false(recording.finished);
    err = ERROR_INIT;
    assert_false(sink_finish(&counter->sink, &err)); /* once: it does not try again */
    assert_string_equal(err.message, "counter could not finish");
    sink_free(&counter->sink);
    assert_int_equal(released, 1);
    recording_free(&recording);
}

static void
test_failure_of_the_last_reaches_the_head(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    size_t released = 0;
    Counter *counter = counter_new(recorder_new(&recording, &err), &released, &err);

    (void)state;
    recording.fail_finish = true;
    assert_false(sink_finish(&counter->sink, &err));
    assert_int_equal(err.sys_errno, EIO);
    assert_non_null(counter->sink.failure);
    assert_string_equal(counter->sink.failure->message, err.message);
    sink_free(&counter->sink);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_constructor_without_next_fails_quietly(void **state)
{
    Error err = ERROR_INIT;
    size_t released = 0;

    (void)state;
    (void)error_set(&err, ERR_MEMORY, "set by whoever failed");
    assert_null(counter_new(NULL, &released, &err));
    assert_string_equal(err.message, "set by whoever failed");
    sink_free(NULL);
}

static void
test_constructor_frees_next_when_it_fails(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *last = recorder_new(&recording, &err);

    (void)state;
    assert_null(sink_alloc(HUGE_ALLOCATION, &plain_ops, last, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_abandoned_chain_is_not_finished(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    size_t released = 0;
    Counter *counter = counter_new(recorder_new(&recording, &err), &released, &err);

    (void)state;
    assert_true(sink_archive_begin(&counter->sink, &base, &err));
    assert_true(sink_entry_begin(&counter->sink, &file, &err));
    sink_free(&counter->sink);
    assert_false(recording.finished);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

/* ---- durable mark ---- */

static void
test_durable_mark_never_moves_back(void **state)
{
    DurableMark mark = {.lsn = LSN_INVALID};

    (void)state;
    assert_true(durable_mark_get(&mark) == 0);
    durable_mark_advance(&mark, 0x3000060);
    durable_mark_advance(&mark, 0x3000000);
    durable_mark_advance(&mark, 0);
    assert_true(durable_mark_get(&mark) == 0x3000060);
    durable_mark_advance(&mark, UINT64_MAX);
    assert_true(durable_mark_get(&mark) == UINT64_MAX);
}

typedef struct Marker {
    DurableMark *mark;
    Lsn offset;
} Marker;

static void
advance_in_steps(void *arg)
{
    const Marker *marker = arg;

    for (Lsn lsn = 0; lsn < 20000; lsn += 2)
        durable_mark_advance(marker->mark, lsn + marker->offset);
}

static void
test_durable_mark_keeps_the_highest_of_all_threads(void **state)
{
    DurableMark mark = {.lsn = LSN_INVALID};
    Marker even = {.mark = &mark, .offset = 0};
    Marker odd = {.mark = &mark, .offset = 1};
    Error err = ERROR_INIT;
    Thread threads[2];
    Lsn seen = 0;

    (void)state;
    assert_true(thread_start(&threads[0], advance_in_steps, &even, &err));
    assert_true(thread_start(&threads[1], advance_in_steps, &odd, &err));
    for (int i = 0; i < 1000; i++) {
        Lsn now = durable_mark_get(&mark);

        assert_true(now >= seen);
        seen = now;
    }
    thread_join(&threads[0]);
    thread_join(&threads[1]);
    assert_true(durable_mark_get(&mark) == 19999);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_of_both_kinds_of_archive_passes),
        cmocka_unit_test(test_data_of_no_bytes_is_nothing),
        cmocka_unit_test(test_grammar_violations_are_bugs),
        cmocka_unit_test(test_dead_sink_repeats_its_first_error),
        cmocka_unit_test(test_grammar_violation_kills_too),
        cmocka_unit_test(test_sink_die_keeps_the_first),
        cmocka_unit_test(test_chain_forwards_and_is_freed_once),
        cmocka_unit_test(test_failed_finish_stops_the_chain),
        cmocka_unit_test(test_failure_of_the_last_reaches_the_head),
        cmocka_unit_test(test_constructor_without_next_fails_quietly),
        cmocka_unit_test(test_constructor_frees_next_when_it_fails),
        cmocka_unit_test(test_abandoned_chain_is_not_finished),
        cmocka_unit_test(test_durable_mark_never_moves_back),
        cmocka_unit_test(test_durable_mark_keeps_the_highest_of_all_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
