/* tee: two chains get the same events, in order, until one of them fails. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "stream/stage.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "support/tar_builder.h"

static const Archive base = {.name = "base.tar"};

/* The events of push_all, without finish. */
#define EVENTS 11

static bool
push_all(Sink *sink, Error *err)
{
    Entry file = {.kind = ENTRY_FILE, .path = "f", .size = 6, .mode = 0600};
    Entry link = {.kind = ENTRY_SYMLINK, .path = "pg_tblspc/1", .link_target = "/ts"};

    return sink_archive_begin(sink, &base, err) && sink_entry_begin(sink, &file, err) &&
           sink_data(sink, span_of("abc"), err) && sink_flush(sink, 7, err) &&
           sink_data(sink, span_of("def"), err) && sink_entry_end(sink, false, err) &&
           sink_entry_begin(sink, &link, err) && sink_entry_end(sink, true, err) &&
           sink_archive_end(sink, err) &&
           sink_archive_begin(sink, &(Archive){.name = "1.tar", .tablespace = 1}, err) &&
           sink_archive_end(sink, err);
}

typedef struct Pair {
    Recording first;
    Recording second;
    Sink *tee;
} Pair;

static void
start(Pair *pair)
{
    Error err = ERROR_INIT;

    pair->tee = tee_new(recorder_new(&pair->first, &err), recorder_new(&pair->second, &err), &err);
    assert_non_null(pair->tee);
}

static void
end(Pair *pair)
{
    sink_free(pair->tee);
    assert_int_equal(pair->first.released, 1);
    assert_int_equal(pair->second.released, 1);
    recording_free(&pair->first);
    recording_free(&pair->second);
}

/* ---- the same to both ---- */

static void
test_both_get_everything(void **state)
{
    Recording alone = RECORDING_INIT;
    Pair pair = {.tee = NULL};
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&alone, &err);

    (void)state;
    assert_true(push_all(sink, &err) && sink_finish(sink, &err));
    sink_free(sink);
    start(&pair);
    assert_true(push_all(pair.tee, &err));
    assert_false(pair.first.finished || pair.second.finished);
    assert_true(sink_finish(pair.tee, &err));
    assert_int_equal(alone.events, EVENTS);
    assert_int_equal(pair.first.events, EVENTS);
    assert_int_equal(pair.second.events, EVENTS);
    assert_string_equal(recording_text(&pair.first), recording_text(&alone));
    assert_string_equal(recording_text(&pair.second), recording_text(&alone));
    recording_free(&alone);
    end(&pair);
}

/* A recorder's hook: the other one has had as many events as `lag` says. */
typedef struct Order {
    const Recording *self;
    const Recording *other;
    size_t lag;
} Order;

static bool
expect_order(void *ctx, const Event *event, Error *err)
{
    const Order *order = ctx;

    (void)err;
    if (event == NULL)
        assert_int_equal(order->other->finished, order->lag == 0);
    else
        assert_int_equal(order->other->events + order->lag, order->self->events);
    return true;
}

static void
test_first_comes_first(void **state)
{
    Pair pair = {.tee = NULL};
    Order of_first = {.self = &pair.first, .other = &pair.second, .lag = 1};
    Order of_second = {.self = &pair.second, .other = &pair.first, .lag = 0};
    Error err = ERROR_INIT;

    (void)state;
    start(&pair);
    pair.first.hook = expect_order;
    pair.first.ctx = &of_first;
    pair.second.hook = expect_order;
    pair.second.ctx = &of_second;
    assert_true(push_all(pair.tee, &err));
    assert_true(sink_finish(pair.tee, &err));
    end(&pair);
}

/* An opaque archive into chains that treat it differently, in any pieces, with and without threads
 * of their own. */
static void
test_chains_of_their_own(void **state)
{
    static const size_t pieces[] = {1, 511, 512, 4000};
    const HandoffConfig small = {.block_size = 300, .block_count = 2};
    char content[1300];
    Buf tar = BUF_INIT;

    (void)state;
    memset(content, 'c', sizeof content);
    tar_add(&tar, &(TarMember){.name = "f", .data = content, .size = sizeof content, .mtime = 1});
    tar_end(&tar);
    for (size_t i = 0; i < 4 * sizeof pieces / sizeof pieces[0]; i++) {
        Pair pair = {.tee = NULL};
        Error err = ERROR_INIT;
        Sink *first = recorder_new(&pair.first, &err);
        Sink *second = tar_reader_new(recorder_new(&pair.second, &err), TAR_END_REQUIRED, &err);

        if ((i & 1) != 0)
            first = handoff_new(first, &small, &err);
        if ((i & 2) != 0)
            second = handoff_new(second, &small, &err);
        pair.tee = tee_new(first, second, &err);
        assert_true(chunk_archive(pair.tee, &base, tar_span(&tar), pieces[i / 4], &err));
        assert_true(sink_finish(pair.tee, &err));
        assert_int_equal(pair.first.bytes.len, tar.len);
        assert_memory_equal(pair.first.bytes.data, tar.data, tar.len);
        assert_string_equal(recording_text(&pair.second), "archive base.tar 0\n"
                                                          "file f size=1300 mode=0600 mtime=1\n"
                                                          "data 1300 crc=7F1AB5F7\n"
                                                          "end complete\n"
                                                          "archive end\n"
                                                          "finish\n");
        end(&pair);
    }
    buf_free(&tar);
}

/* ---- failures ---- */

/* Either of them fails at event `n`: what it was, how many events each has had, and that no more
 * come. */
static void
fail_at(size_t n, bool of_second)
{
    Pair pair = {.tee = NULL};
    Error err = ERROR_INIT;
    Error again = ERROR_INIT;
    char message[64];

    start(&pair);
    (of_second ? &pair.second : &pair.first)->fail_at = n;
    assert_false(push_all(pair.tee, &err));
    (void)snprintf(message, sizeof message, "injected failure of event %zu: Input/output error", n);
    assert_string_equal(err.message, message);
    assert_int_equal(err.sys_errno, EIO);
    assert_false(sink_flush(pair.tee, 9, &again));
    assert_memory_equal(&again, &err, sizeof err);
    assert_false(sink_finish(pair.tee, &again));
    assert_memory_equal(&again, &err, sizeof err);
    assert_int_equal(pair.first.events, n);
    assert_int_equal(pair.second.events, of_second ? n : n - 1);
    assert_false(pair.first.finished || pair.second.finished);
    end(&pair);
}

static void
test_failure_of_either_at_every_event(void **state)
{
    (void)state;
    for (size_t n = 1; n <= EVENTS; n++) {
        fail_at(n, false);
        fail_at(n, true);
    }
}

static void
test_second_is_not_finished_when_the_first_fails(void **state)
{
    Pair pair = {.tee = NULL};
    Error err = ERROR_INIT;

    (void)state;
    start(&pair);
    pair.first.fail_finish = true;
    assert_false(sink_finish(pair.tee, &err));
    assert_string_equal(err.message, "injected failure of finish: Input/output error");
    assert_false(pair.second.finished);
    end(&pair);
}

static void
test_failed_finish_of_the_second(void **state)
{
    Pair pair = {.tee = NULL};
    Error err = ERROR_INIT;

    (void)state;
    start(&pair);
    pair.second.fail_finish = true;
    assert_false(sink_finish(pair.tee, &err));
    assert_string_equal(err.message, "injected failure of finish: Input/output error");
    assert_true(pair.first.finished); /* nothing takes that back: the whole has failed */
    end(&pair);
}

static void
test_grammar_is_checked_before_either(void **state)
{
    Pair pair = {.tee = NULL};
    Error err = ERROR_INIT;

    (void)state;
    start(&pair);
    assert_false(sink_data(pair.tee, span_of("x"), &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, "stage \"tee\" got data outside an archive");
    assert_int_equal(pair.first.events + pair.second.events, 0);
    end(&pair);
}

/* ---- ownership ---- */

static void
test_abandoned(void **state)
{
    Pair pair = {.tee = NULL};
    Error err = ERROR_INIT;

    (void)state;
    start(&pair);
    assert_true(sink_archive_begin(pair.tee, &base, &err));
    sink_free(pair.tee);
    assert_int_equal(pair.first.released, 1);
    assert_int_equal(pair.second.released, 1);
    assert_false(pair.first.finished || pair.second.finished);
    recording_free(&pair.first);
    recording_free(&pair.second);
}

static void
test_one_that_could_not_be_made(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;

    (void)state;
    (void)error_set(&err, ERR_FORMAT, "of whoever failed before");
    assert_null(tee_new(NULL, recorder_new(&recording, &err), &err));
    assert_int_equal(recording.released, 1);
    assert_null(tee_new(recorder_new(&recording, &err), NULL, &err));
    assert_int_equal(recording.released, 2);
    assert_null(tee_new(NULL, NULL, &err));
    assert_string_equal(err.message, "of whoever failed before");
    recording_free(&recording);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_get_everything),
        cmocka_unit_test(test_first_comes_first),
        cmocka_unit_test(test_chains_of_their_own),
        cmocka_unit_test(test_failure_of_either_at_every_event),
        cmocka_unit_test(test_second_is_not_finished_when_the_first_fails),
        cmocka_unit_test(test_failed_finish_of_the_second),
        cmocka_unit_test(test_grammar_is_checked_before_either),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_one_that_could_not_be_made),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
