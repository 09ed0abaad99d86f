/*
 * Status timing: tables over values, no clock, no connection.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "walrecv/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void
test_due(void **state)
{
    static const struct {
        const char *what;
        Feedback feedback;
        FeedbackView view;
        bool due;
    } cases[] = {
        {"the first one goes out at once", {.interval_ms = 10000}, {.now_ms = 5}, true},
        {"but not without an interval", {.interval_ms = 0}, {.now_ms = 5}, false},
        {"within the interval",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000},
         {.now_ms = 10999, .written = 77},
         false},
        {"at the interval",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000},
         {.now_ms = 11000},
         true},
        {"long after it",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000},
         {.now_ms = 999999},
         true},
        {"never without an interval",
         {.interval_ms = 0, .sent = true, .sent_ms = 1000},
         {.now_ms = INT64_MAX},
         false},
        {"an answer is owed",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000, .reply_owed = true},
         {.now_ms = 1000},
         true},
        {"an answer is owed, without an interval",
         {.interval_ms = 0, .reply_owed = true},
         {.now_ms = 1000},
         true},
        {"the mark moved",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000, .sent_flushed = 100},
         {.now_ms = 1001, .flushed = 101},
         true},
        {"the mark stayed",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000, .sent_flushed = 100},
         {.now_ms = 1001, .flushed = 100, .written = 500},
         false},
        {"the mark moved, only when asked",
         {.interval_ms = 0, .sent = true, .sent_flushed = 100},
         {.now_ms = 1001, .flushed = 200},
         false},
        {"the mark moved, because the server asked",
         {.interval_ms = 0, .sent = true, .sent_flushed = 100, .flush_target = 200},
         {.now_ms = 1001, .flushed = 200},
         true},
        {"deaf, with an interval",
         {.interval_ms = 60000, .sent = true, .sent_ms = 0},
         {.now_ms = 59999, .deaf = true},
         false},
        {"deaf, without one",
         {.interval_ms = 0, .sent = true, .sent_ms = 1000},
         {.now_ms = 1000 + FEEDBACK_DEAF_INTERVAL_MS, .deaf = true},
         true},
        {"deaf, without one, too early",
         {.interval_ms = 0, .sent = true, .sent_ms = 1000},
         {.now_ms = 999 + FEEDBACK_DEAF_INTERVAL_MS, .deaf = true},
         false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (feedback_due(&cases[i].feedback, &cases[i].view) != cases[i].due)
            fail_msg("%s", cases[i].what);
    }
}

static void
test_wants_flush(void **state)
{
    static const struct {
        const char *what;
        Feedback feedback;
        FeedbackView view;
        bool wants;
    } cases[] = {
        {"nobody asked", {.reply_owed = false}, {.received = 300, .flushed = 100}, false},
        {"asked, with something to flush",
         {.reply_owed = true},
         {.received = 300, .flushed = 100},
         true},
        {"asked, all is flushed", {.reply_owed = true}, {.received = 300, .flushed = 300}, false},
        {"asked, more than all is flushed",
         {.reply_owed = true},
         {.received = 300, .flushed = 400},
         false},
        {"asked again, the flush is under way",
         {.reply_owed = true, .flush_target = 300},
         {.received = 300, .flushed = 100},
         false},
        {"asked again, more has come",
         {.reply_owed = true, .flush_target = 300},
         {.received = 301, .flushed = 100},
         true},
        {"at once",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true, .pending_ms = 50},
         {.now_ms = 50, .received = 300, .flushed = 100},
         true},
        {"at once, nothing came",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE},
         {.now_ms = 50, .received = 300, .flushed = 300},
         false},
        {"at once, but one is under way",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true, .flush_target = 200},
         {.now_ms = 9999, .received = 300, .flushed = 199},
         false},
        {"at once, the one before has come through",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true, .flush_target = 200},
         {.now_ms = 9999, .received = 300, .flushed = 200},
         true},
        {"at once, while more comes in",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true, .pending_ms = 50},
         {.now_ms = 49 + FEEDBACK_BREAK_MS, .received = 300, .busy = true},
         false},
        {"at once, more comes in without a break",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true, .pending_ms = 50},
         {.now_ms = 50 + FEEDBACK_BREAK_MS, .received = 300, .busy = true},
         true},
        {"not old enough",
         {.flush_lag_ms = 1000, .pending = true, .pending_ms = 50},
         {.now_ms = 1049, .received = 300},
         false},
        {"old enough",
         {.flush_lag_ms = 1000, .pending = true, .pending_ms = 50},
         {.now_ms = 1050, .received = 300, .busy = true},
         true},
        {"old enough, but a segment's end has made it durable",
         {.flush_lag_ms = 1000, .pending = true, .pending_ms = 50},
         {.now_ms = 1050, .received = 300, .flushed = 300},
         false},
        {"not old enough, but asked",
         {.flush_lag_ms = 1000, .pending = true, .pending_ms = 50, .reply_owed = true},
         {.now_ms = 51, .received = 300},
         true},
        {"old, but nobody wants it",
         {.pending = true, .pending_ms = 50},
         {.now_ms = 99999, .received = 300},
         false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (feedback_wants_flush(&cases[i].feedback, &cases[i].view) != cases[i].wants)
            fail_msg("%s", cases[i].what);
    }
}

/* One flush is under way at a time; what comes meanwhile is flushed together. */
static void
test_flushes_in_groups(void **state)
{
    Feedback feedback = {.flush_lag_ms = WAL_FLUSH_AT_ONCE};
    FeedbackView view = {.now_ms = 10, .received = 100};
    size_t flushes = 0;

    (void)state;
    feedback_start(&feedback, 0, 0, 0);
    for (int i = 0; i < 100; i++) {
        view.received += 8;
        view.now_ms++;
        feedback_note_received(&feedback, view.now_ms);
        if (feedback_wants_flush(&feedback, &view)) {
            feedback_note_flush(&feedback, &view);
            flushes++;
        }
        if (i % 10 == 9) { /* the disk is ten times as slow as the stream */
            view.flushed = feedback.flush_target;
            assert_true(feedback_due(&feedback, &view));
            feedback_note_sent(&feedback, &view);
            assert_false(feedback_due(&feedback, &view));
        }
    }
    assert_int_equal(flushes, 10);
}

static void
test_silence(void **state)
{
    Feedback feedback = {.silence_limit_ms = 2000};
    FeedbackView view = {.now_ms = 999};

    (void)state;
    feedback_start(&feedback, 0, 0, 0);
    assert_false(feedback_asks(&feedback, &view));
    assert_false(feedback_due(&feedback, &view));
    assert_int_equal(feedback_wait_ms(&feedback, &view), 1);

    view.now_ms = 1000;
    assert_true(feedback_asks(&feedback, &view));
    assert_true(feedback_due(&feedback, &view));
    feedback_note_sent(&feedback, &view);
    assert_false(feedback_asks(&feedback, &view)); /* once is enough */
    assert_false(feedback_due(&feedback, &view));

    view.now_ms = 1900;
    assert_int_equal(feedback_wait_ms(&feedback, &view), 100);
    assert_false(feedback_gives_up(&feedback, &view));
    view.now_ms = 2000;
    assert_true(feedback_gives_up(&feedback, &view));

    view.deaf = true; /* it may have said something that we have not read */
    assert_false(feedback_gives_up(&feedback, &view));
    view.deaf = false;
    feedback_note_heard(&feedback, 1999);
    assert_false(feedback_gives_up(&feedback, &view));
    assert_false(feedback_asks(&feedback, &view));
    view.now_ms = 2999;
    assert_true(feedback_asks(&feedback, &view));
    view.deaf = true;
    assert_false(feedback_asks(&feedback, &view));

    /* We could not ask (a long pause of ours): not without having asked. */
    view = (FeedbackView){.now_ms = 99999};
    assert_false(feedback_gives_up(&feedback, &view));
    assert_true(feedback_asks(&feedback, &view));

    feedback.silence_limit_ms = 0;
    assert_false(feedback_asks(&feedback, &view));
    assert_false(feedback_gives_up(&feedback, &view));
}

static void
test_wait(void **state)
{
    static const struct {
        const char *what;
        Feedback feedback;
        int64_t now_ms;
        int64_t wait_ms;
    } cases[] = {
        {"the heartbeat", {.interval_ms = 10000, .sent = true, .sent_ms = 1000}, 1000, 1000},
        {"what is left of the interval",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000},
         10400,
         600},
        {"nothing is left", {.interval_ms = 10000, .sent = true, .sent_ms = 1000}, 12000, 0},
        {"never sent", {.interval_ms = 10000}, 12000, 0},
        {"no interval", {.interval_ms = 0}, 12000, 1000},
        {"a short interval", {.interval_ms = 50, .sent = true, .sent_ms = 12000}, 12000, 50},
        {"a flush is due soon",
         {.flush_lag_ms = 500, .pending = true, .pending_ms = 1000},
         1100,
         400},
        {"a flush is due", {.flush_lag_ms = 500, .pending = true, .pending_ms = 1000}, 1600, 0},
        {"at once", {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true}, 1600, 0},
        {"a flush under way: it rings",
         {.flush_lag_ms = WAL_FLUSH_AT_ONCE, .pending = true, .flush_target = 5},
         1600,
         1000},
        {"nobody wants it", {.pending = true, .pending_ms = 1000}, 1600, 1000},
        {"the silence is to be broken", {.silence_limit_ms = 1000, .heard_ms = 1000}, 1300, 200},
        {"the silence was broken",
         {.silence_limit_ms = 1000, .heard_ms = 1000, .asked = true},
         1300,
         700},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        FeedbackView view = {.now_ms = cases[i].now_ms, .received = 9};

        if (feedback_wait_ms(&cases[i].feedback, &view) != cases[i].wait_ms)
            fail_msg("%s", cases[i].what);
    }
}

/* A request is answered at once, and again when its flush has come through; then there is peace. */
static void
test_request_and_flush(void **state)
{
    Feedback feedback = {.interval_ms = 0};
    FeedbackView view = {.now_ms = 1000, .received = 300, .flushed = 100};

    (void)state;
    feedback_start(&feedback, 0, 0, 0);
    feedback.reply_owed = true;
    assert_true(feedback_wants_flush(&feedback, &view));
    feedback_note_flush(&feedback, &view);
    assert_true(feedback_due(&feedback, &view));
    feedback_note_sent(&feedback, &view);
    assert_false(feedback.reply_owed);
    assert_int_equal(feedback.sent_flushed, 100);
    assert_int_equal(feedback.flush_target, 300);

    view.now_ms = 1100;
    assert_false(feedback_due(&feedback, &view));
    assert_int_equal(feedback_wait_ms(&feedback, &view), 1000);

    view.flushed = 200; /* half-way: the end of a segment */
    assert_true(feedback_due(&feedback, &view));
    feedback_note_sent(&feedback, &view);
    assert_int_equal(feedback.flush_target, 300);

    view.flushed = 300;
    assert_true(feedback_due(&feedback, &view));
    feedback_note_sent(&feedback, &view);
    assert_int_equal(feedback.flush_target, 0);
    assert_false(feedback_due(&feedback, &view));
    assert_int_equal(feedback_wait_ms(&feedback, &view), 1000);

    view.flushed = 400; /* nobody asked for this one */
    assert_false(feedback_due(&feedback, &view));
}

static void
test_interval(void **state)
{
    Feedback feedback = {.interval_ms = 3000};
    size_t sent = 0;

    (void)state;
    feedback_start(&feedback, 16, 0, 0);
    for (int64_t now = 100; now < 30100; now += 100) {
        FeedbackView view = {.now_ms = now, .written = (Lsn)now};

        if (feedback_due(&feedback, &view)) {
            assert_int_equal(feedback_wait_ms(&feedback, &view), 0);
            feedback_note_sent(&feedback, &view);
            sent++;
        }
    }
    assert_int_equal(sent, 10);
}

static void
test_flushed_on_the_first_timeline(void **state)
{
    Feedback feedback = {.interval_ms = 10};

    (void)state;
    feedback_start(&feedback, 0x1000000, 0, 0);
    assert_int_equal(feedback_mark(&feedback, 0), 0);
    assert_int_equal(feedback_mark(&feedback, 0x1000000), 0x1000000);
    assert_int_equal(feedback_mark(&feedback, 0x1234567), 0x1234567);
}

/* What was durable on the old timeline beyond the beginning of the new stream is not on the new
 * one. */
static void
test_flushed_after_a_switch(void **state)
{
    static const struct {
        Lsn mark;
        Lsn flushed;
    } cases[] = {
        {0, 0},
        {0x2FFFFFF, 0x2FFFFFF}, /* before the new stream: common to both */
        {0x3000000, 0x3000000},
        {0x3000001, 0x3000000}, /* of the old timeline */
        {0x3450000, 0x3000000},
        {0x3500000, 0x3000000}, /* its very end */
        {0x3500001, 0x3500001}, /* only the new one gets that far */
        {0x4000000, 0x4000000},
    };
    Feedback feedback = {.interval_ms = 10,
                         .sent = true,
                         .sent_ms = 5,
                         .sent_flushed = 0x3450000,
                         .flush_target = 0x3500000,
                         .reply_owed = true};

    (void)state;
    feedback_start(&feedback, 0x3000000, 0x3500000, 7);
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(feedback_mark(&feedback, cases[i].mark), cases[i].flushed);
    /* A new stream owes nothing and has told nothing. */
    assert_int_equal(feedback.interval_ms, 10);
    assert_false(feedback.reply_owed);
    assert_false(feedback.sent);
    assert_int_equal(feedback.sent_flushed, 0);
    assert_int_equal(feedback.flush_target, 0);
}

/* Two switches in one segment: the first timeline's marks are no more valid on the third. */
static void
test_flushed_after_two_switches(void **state)
{
    Feedback feedback = {.interval_ms = 10};

    (void)state;
    feedback_start(&feedback, 0x3000000, 0, 7);
    feedback_start(&feedback, 0x3000000, 0x3500000, 7);
    feedback_start(&feedback, 0x3000000, 0x3400000, 7);
    assert_int_equal(feedback_mark(&feedback, 0x3500000), 0x3000000);
    assert_int_equal(feedback_mark(&feedback, 0x3500001), 0x3500001);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_due),
        cmocka_unit_test(test_wants_flush),
        cmocka_unit_test(test_flushes_in_groups),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_request_and_flush),
        cmocka_unit_test(test_interval),
        cmocka_unit_test(test_flushed_on_the_first_timeline),
        cmocka_unit_test(test_flushed_after_a_switch),
        cmocka_unit_test(test_flushed_after_two_switches),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
