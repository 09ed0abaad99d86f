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
        {"nobody asked", {.reply_owed = false}, {.written = 300, .flushed = 100}, false},
        {"asked, with something to flush",
         {.reply_owed = true},
         {.written = 300, .flushed = 100},
         true},
        {"asked, all is flushed", {.reply_owed = true}, {.written = 300, .flushed = 300}, false},
        {"asked, more than all is flushed",
         {.reply_owed = true},
         {.written = 300, .flushed = 400},
         false},
        {"asked again, the flush is under way",
         {.reply_owed = true, .flush_target = 300},
         {.written = 300, .flushed = 100},
         false},
        {"asked again, more has come",
         {.reply_owed = true, .flush_target = 300},
         {.written = 301, .flushed = 100},
         true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (feedback_wants_flush(&cases[i].feedback, &cases[i].view) != cases[i].wants)
            fail_msg("%s", cases[i].what);
    }
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
        {"a flush under way",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000, .flush_target = 5, .flush_ms = 900},
         1000,
         100},
        {"a flush under way, the interval sooner",
         {.interval_ms = 10000, .sent = true, .sent_ms = 1000, .flush_target = 5, .flush_ms = 900},
         10970,
         30},
        {"a flush that never comes through",
         {.interval_ms = 0, .flush_target = 5, .flush_ms = 1000},
         1000 + FEEDBACK_FLUSH_PATIENCE_MS,
         1000},
        {"a flush that takes long",
         {.interval_ms = 0, .flush_target = 5, .flush_ms = 1000},
         999 + FEEDBACK_FLUSH_PATIENCE_MS,
         100},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        FeedbackView view = {.now_ms = cases[i].now_ms};

        if (feedback_wait_ms(&cases[i].feedback, &view) != cases[i].wait_ms)
            fail_msg("%s", cases[i].what);
    }
}

/* A request is answered at once, and again when its flush has come through; then there is peace. */
static void
test_request_and_flush(void **state)
{
    Feedback feedback = {.interval_ms = 0};
    FeedbackView view = {.now_ms = 1000, .written = 300, .flushed = 100};

    (void)state;
    feedback_start(&feedback, 0, 0);
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
    assert_int_equal(feedback_wait_ms(&feedback, &view), 100);

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
    feedback_start(&feedback, 16, 0);
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
    feedback_start(&feedback, 0x1000000, 0);
    assert_int_equal(feedback_flushed(&feedback, 0), 0);
    assert_int_equal(feedback_flushed(&feedback, 0x1000000), 0x1000000);
    assert_int_equal(feedback_flushed(&feedback, 0x1234567), 0x1234567);
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
    feedback_start(&feedback, 0x3000000, 0x3500000);
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(feedback_flushed(&feedback, cases[i].mark), cases[i].flushed);
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
    feedback_start(&feedback, 0x3000000, 0);
    feedback_start(&feedback, 0x3000000, 0x3500000);
    feedback_start(&feedback, 0x3000000, 0x3400000);
    assert_int_equal(feedback_flushed(&feedback, 0x3500000), 0x3000000);
    assert_int_equal(feedback_flushed(&feedback, 0x3500001), 0x3500001);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_due),
        cmocka_unit_test(test_wants_flush),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_request_and_flush),
        cmocka_unit_test(test_interval),
        cmocka_unit_test(test_flushed_on_the_first_timeline),
        cmocka_unit_test(test_flushed_after_a_switch),
        cmocka_unit_test(test_flushed_after_two_switches),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
