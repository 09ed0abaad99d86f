/*
 * UPLOAD_MANIFEST: what is sent, what the server may answer and when, and files that cannot be
 * read. Every read of the file is led through the test.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer.h"
#include "protocol/internal.h"
#include "support/descriptors.h"
#include "support/temp_dir.h"

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

#define PIECE 65536
/* More than a socket and libpq hold together. */
#define HUGE_MANIFEST (32U << 20)

/* ---- reads ---- */

/* The read of this thread that fails, or that requests a stop, counted down; -1: none does. */
static _Thread_local long countdown = -1;
static _Thread_local Stop *stop_at_zero;

ssize_t __real_read(int fd, void *data, size_t len);
ssize_t __wrap_read(int fd, void *data, size_t len);

ssize_t
__wrap_read(int fd, void *data, size_t len)
{
    if (countdown > 0 && --countdown == 0) {
        if (stop_at_zero == NULL) {
            errno = EIO;
            return -1;
        }
        stop_request(stop_at_zero);
    }
    return __real_read(fd, data, len);
}

/* ---- manifests ---- */

typedef struct Manifest {
    TempDir dir;
    const char *path;
    uint8_t *bytes;
    size_t len;
    size_t descriptors; /* as many are open behind the test as before it */
} Manifest;

/* `len` bytes, no two pieces of which are alike. */
static void
manifest_make(Manifest *manifest, size_t len)
{
    *manifest = (Manifest){.bytes = malloc(len + 1), .len = len, .descriptors = descriptors_open()};
    assert_non_null(manifest->bytes);
    for (size_t i = 0; i < len; i++)
        manifest->bytes[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
    temp_dir_make(&manifest->dir);
    temp_dir_write(&manifest->dir, "backup_manifest", manifest->bytes, len);
    manifest->path = temp_dir_path(&manifest->dir, "backup_manifest");
}

static void
manifest_free(Manifest *manifest)
{
    temp_dir_remove(&manifest->dir);
    free(manifest->bytes);
    assert_int_equal(descriptors_open(), manifest->descriptors);
}

/* ---- servers ---- */

/* A script that has asked for the manifest. */
static void
script_copy_in(Peer *peer)
{
    wire_expect(&peer->script, "UPLOAD_MANIFEST");
    wire_copy_in(wire_send(&peer->script));
}

static void
script_completed(Peer *peer)
{
    Buf *out = wire_send(&peer->script);

    wire_complete(out, "UPLOAD_MANIFEST");
    wire_ready(out);
}

static void
script_error(Peer *peer, const char *message)
{
    Buf *out = wire_send(&peer->script);

    wire_error(out, "ERROR", "XX000", message);
    wire_ready(out);
}

static bool
upload(Peer *peer, const char *path, const Stop *stop)
{
    return repl_upload_manifest(peer->conn, path, stop, &peer->err);
}

/* The connection is good for another command. */
static void
assert_usable(Peer *peer)
{
    ServerIdentity identity;

    if (!repl_identify_system(peer->conn, &identity, &peer->err))
        fail_msg("%s", peer->err.message);
}

static void
script_usable(Peer *peer)
{
    peer_answer(peer, "IDENTIFY_SYSTEM", ROW("1", "1", "0/1", NULL));
}

/* The server got the manifest in pieces, and only that. */
static void
assert_received(Peer *peer, const Manifest *manifest)
{
    size_t done = 0;
    size_t n = 0;

    (void)wire_server_stop(peer->server);
    for (; done < manifest->len; n++) {
        size_t left = manifest->len - done;
        Span got = wire_server_copy_data(peer->server, n);

        assert_int_equal(got.len, left < PIECE ? left : PIECE);
        assert_memory_equal(got.data, manifest->bytes + done, got.len);
        done += got.len;
    }
    assert_null(wire_server_copy_data(peer->server, n).data);
}

/* ---- good ends ---- */

static void
manifests_of_all_sizes(void **state)
{
    static const size_t sizes[] = {
        0, 1, 100, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE + 77, HUGE_MANIFEST};
    (void)state;

    for (int i = 0; i < COUNT(sizes); i++) {
        Manifest manifest;
        Peer peer;

        manifest_make(&manifest, sizes[i]);
        peer_init(&peer);
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        script_completed(&peer);
        script_usable(&peer);
        peer_connect(&peer);
        assert_true(upload(&peer, manifest.path, NULL));
        assert_usable(&peer);
        assert_received(&peer, &manifest);
        assert_string_equal(wire_server_query(peer.server, 0), "UPLOAD_MANIFEST");
        peer_done(&peer);
        manifest_free(&manifest);
    }
}

/* The answers come byte by byte, and a notice in between goes its own way. */
static void
answers_in_chunks(void **state)
{
    Manifest manifest;
    Peer peer;
    (void)state;

    manifest_make(&manifest, 3 * PIECE);
    peer_init(&peer);
    peer.config.chunk = 1;
    script_copy_in(&peer);
    wire_step(&peer.script, WIRE_COPY_DATA);
    wire_notice(wire_send(&peer.script), "a notice goes to standard error");
    wire_step(&peer.script, WIRE_COPY_DONE);
    script_completed(&peer);
    peer_connect(&peer);
    assert_true(upload(&peer, manifest.path, NULL));
    assert_received(&peer, &manifest);
    peer_done(&peer);
    manifest_free(&manifest);
}

/* A second manifest takes the place of the first. */
static void
upload_twice(void **state)
{
    Manifest manifest;
    Peer peer;
    (void)state;

    manifest_make(&manifest, 10);
    peer_init(&peer);
    for (int i = 0; i < 2; i++) {
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        script_completed(&peer);
    }
    peer_connect(&peer);
    assert_true(upload(&peer, manifest.path, NULL));
    assert_true(upload(&peer, manifest.path, NULL));
    peer_done(&peer);
    manifest_free(&manifest);
}

static void
request_stop_soon(void *arg)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    stop_request(arg);
}

/* A server that takes its time holds us, but not for ever. */
static void
server_that_reads_late(void **state)
{
    Thread thread;
    Manifest manifest;
    Peer peer;
    Stop go;
    (void)state;

    manifest_make(&manifest, HUGE_MANIFEST);
    peer_init(&peer);
    assert_true(stop_init(&go, &peer.err));
    script_copy_in(&peer);
    wire_stall(&peer.script, &go);
    wire_step(&peer.script, WIRE_COPY_DONE);
    script_completed(&peer);
    peer_connect(&peer);
    assert_true(thread_start(&thread, request_stop_soon, &go, &peer.err));
    assert_true(upload(&peer, manifest.path, NULL));
    thread_join(&thread);
    assert_received(&peer, &manifest);
    peer_done(&peer);
    stop_destroy(&go);
    manifest_free(&manifest);
}

/* ---- what the server has against it ---- */

static void
error_instead_of_the_copy(void **state)
{
    Manifest manifest;
    Peer peer;
    (void)state;

    manifest_make(&manifest, HUGE_MANIFEST);
    peer_init(&peer);
    peer_answer_error(&peer, "UPLOAD_MANIFEST", "42501", "not for you");
    script_usable(&peer);
    peer_connect(&peer);
    assert_false(upload(&peer, manifest.path, NULL));
    assert_string_equal(peer.err.sqlstate, "42501");
    peer_assert_error(&peer, ERR_SERVER, "could not upload manifest: ERROR:  not for you");
    assert_usable(&peer);
    assert_received(&peer, &(Manifest){.len = 0});
    peer_done(&peer);
    manifest_free(&manifest);
}

/* The server finds fault after `pieces` of it, and reads on to the end without looking. */
static void
assert_error_after(size_t len, int pieces)
{
    Manifest manifest;
    Peer peer;

    manifest_make(&manifest, len);
    peer_init(&peer);
    script_copy_in(&peer);
    for (int i = 0; i < pieces; i++)
        wire_step(&peer.script, WIRE_COPY_DATA);
    script_error(&peer, "manifest checksum mismatch");
    wire_step(&peer.script, WIRE_COPY_DONE);
    script_usable(&peer);
    peer_connect(&peer);
    assert_false(upload(&peer, manifest.path, NULL));
    assert_string_equal(peer.err.sqlstate, "XX000");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not upload manifest: ERROR:  manifest checksum mismatch");
    assert_usable(&peer);
    peer_done(&peer);
    manifest_free(&manifest);
}

static void
error_in_the_middle(void **state)
{
    (void)state;
    assert_error_after(0, 0);
    assert_error_after(1, 0);
    assert_error_after(1, 1);
    assert_error_after(3 * PIECE, 1);
    assert_error_after(3 * PIECE, 3);
    assert_error_after(HUGE_MANIFEST, 0);
    assert_error_after(HUGE_MANIFEST, 1);
    assert_error_after(HUGE_MANIFEST, 200);
}

static void
error_at_the_end(void **state)
{
    Manifest manifest;
    Peer peer;
    (void)state;

    manifest_make(&manifest, 2 * PIECE);
    peer_init(&peer);
    script_copy_in(&peer);
    wire_step(&peer.script, WIRE_COPY_DONE);
    script_error(&peer, "system identifier in backup manifest is 1, but 2");
    script_usable(&peer);
    peer_connect(&peer);
    assert_false(upload(&peer, manifest.path, NULL));
    peer_assert_error(
        &peer, ERR_SERVER,
        "could not upload manifest: ERROR:  system identifier in backup manifest is 1, but 2");
    assert_usable(&peer);
    assert_received(&peer, &manifest);
    peer_done(&peer);
    manifest_free(&manifest);
}

/* An error that fills the server's side of the socket: it reads nothing until we have read that. */
static void
both_sides_send_at_once(void **state)
{
    char *message = malloc(HUGE_MANIFEST);
    Manifest manifest;
    Peer peer;
    (void)state;

    assert_non_null(message);
    memset(message, 'x', HUGE_MANIFEST - 1);
    message[HUGE_MANIFEST - 1] = '\0';
    manifest_make(&manifest, HUGE_MANIFEST);
    peer_init(&peer);
    script_copy_in(&peer);
    wire_step(&peer.script, WIRE_COPY_DATA);
    script_error(&peer, message);
    wire_step(&peer.script, WIRE_COPY_DONE);
    peer_connect(&peer);
    assert_false(upload(&peer, manifest.path, NULL));
    peer_assert_error_begins(&peer, ERR_SERVER, "could not upload manifest: ERROR:  xxxxxxxxxx");
    peer_done(&peer);
    manifest_free(&manifest);
    free(message);
}

/* A server that goes away in the middle has its last words heard. */
static void
server_that_leaves_says_why(void **state)
{
    static const size_t sizes[] = {1, 10 * PIECE, HUGE_MANIFEST};
    (void)state;

    for (int i = 0; i < COUNT(sizes); i++) {
        Manifest manifest;
        Peer peer;

        manifest_make(&manifest, sizes[i]);
        peer_init(&peer);
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DATA);
        wire_error(wire_send(&peer.script), "FATAL", "57P01", "terminating connection");
        wire_step(&peer.script, WIRE_CLOSE);
        peer_connect(&peer);
        assert_false(upload(&peer, manifest.path, NULL));
        assert_string_equal(peer.err.sqlstate, "57P01");
        peer_assert_error_begins(&peer, ERR_SERVER,
                                 "could not upload manifest: FATAL:  terminating connection");
        peer_done(&peer);
        manifest_free(&manifest);
    }
}

static void
server_that_leaves_in_silence(void **state)
{
    static const size_t sizes[] = {1, 10 * PIECE, HUGE_MANIFEST};
    (void)state;

    for (int i = 0; i < COUNT(sizes); i++) {
        Manifest manifest;
        Peer peer;

        manifest_make(&manifest, sizes[i]);
        peer_init(&peer);
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DATA);
        wire_step(&peer.script, WIRE_CLOSE);
        peer_connect(&peer);
        assert_false(upload(&peer, manifest.path, NULL));
        peer_assert_error_begins(&peer, ERR_CONNECTION, "could not upload manifest: ");
        peer_done(&peer);
        manifest_free(&manifest);
    }
}

/* A server that neither reads on nor goes away. */
static void
server_that_does_not_read(void **state)
{
    Manifest manifest;
    Peer peer;
    Buf *out;
    (void)state;

    manifest_make(&manifest, HUGE_MANIFEST);
    peer_init(&peer);
    script_copy_in(&peer);
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    peer.conn->send_timeout_ms = 100;
    assert_false(upload(&peer, manifest.path, NULL));
    peer_assert_error(&peer, ERR_CONNECTION,
                      "could not upload manifest: the server took nothing for 100 ms");
    peer_drop(&peer);

    /* one that said why */
    peer_init(&peer);
    wire_expect(&peer.script, "UPLOAD_MANIFEST");
    out = wire_send(&peer.script);
    wire_copy_in(out);
    wire_error(out, "ERROR", "XX000", "could not parse backup manifest");
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    peer.conn->send_timeout_ms = 100;
    assert_false(upload(&peer, manifest.path, NULL));
    peer_assert_error(&peer, ERR_SERVER,
                      "could not upload manifest: ERROR:  could not parse backup manifest");
    peer_drop(&peer);
    manifest_free(&manifest);
}

/* ---- what the protocol does not allow ---- */

enum { COPY_OUT_R, COPY_BOTH_R, COMPLETE_R, ROW_R, EMPTY_R, COPY_IN_R, READY_R, RESULTS };

static void
put_result(Buf *out, int result)
{
    if (result == COPY_OUT_R)
        wire_copy_out(out);
    else if (result == COPY_BOTH_R)
        wire_copy_both(out);
    else if (result == COPY_IN_R)
        wire_copy_in(out);
    else if (result == COMPLETE_R)
        wire_complete(out, "UPLOAD_MANIFEST");
    else if (result == ROW_R)
        wire_one_row(out, ROW("1"));
    else if (result == EMPTY_R)
        wire_message(out, 'I', NULL, 0);
    wire_ready(out);
}

static const char *const result_names[RESULTS] = {
    [COPY_OUT_R] = "unexpected status PGRES_COPY_OUT",
    [COPY_BOTH_R] = "unexpected status PGRES_COPY_BOTH",
    [COPY_IN_R] = "unexpected status PGRES_COPY_IN",
    [COMPLETE_R] = "unexpected status PGRES_COMMAND_OK",
    [ROW_R] = "unexpected status PGRES_TUPLES_OK",
    [EMPTY_R] = "unexpected status PGRES_EMPTY_QUERY",
    [READY_R] = "the server sent no result",
};

static void
assert_unexpected(Peer *peer, int result)
{
    char expected[200];

    (void)snprintf(expected, sizeof expected, "could not upload manifest: %s",
                   result_names[result]);
    peer_assert_error(peer, ERR_PROTOCOL, expected);
}

static void
other_results_instead_of_the_copy(void **state)
{
    Manifest manifest;
    (void)state;

    manifest_make(&manifest, PIECE);
    for (int result = 0; result < RESULTS; result++) {
        Peer peer;

        if (result == COPY_IN_R)
            continue;
        peer_init(&peer);
        wire_expect(&peer.script, "UPLOAD_MANIFEST");
        put_result(wire_send(&peer.script), result);
        peer_connect(&peer);
        assert_false(upload(&peer, manifest.path, NULL));
        assert_unexpected(&peer, result);
        peer_done(&peer);
    }
    manifest_free(&manifest);
}

static void
other_results_behind_the_copy(void **state)
{
    Manifest manifest;
    (void)state;

    manifest_make(&manifest, PIECE);
    for (int result = 0; result < RESULTS; result++) {
        Peer peer;

        if (result == COMPLETE_R)
            continue;
        peer_init(&peer);
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        put_result(wire_send(&peer.script), result);
        peer_connect(&peer);
        assert_false(upload(&peer, manifest.path, NULL));
        assert_unexpected(&peer, result);
        peer_done(&peer);
    }
    manifest_free(&manifest);
}

static void
error_behind_the_completion(void **state)
{
    Manifest manifest;
    Peer peer;
    Buf *out;
    (void)state;

    manifest_make(&manifest, PIECE);
    peer_init(&peer);
    script_copy_in(&peer);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_complete(out, "UPLOAD_MANIFEST");
    wire_error(out, "ERROR", "XX000", "second thoughts");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(upload(&peer, manifest.path, NULL));
    peer_assert_error(&peer, ERR_SERVER, "could not upload manifest: ERROR:  second thoughts");
    peer_done(&peer);
    manifest_free(&manifest);
}

static void
connection_cut_everywhere(void **state)
{
    static const size_t sizes[] = {10, HUGE_MANIFEST / 8};
    (void)state;

    for (int i = 0; i < COUNT(sizes); i++) {
        Manifest manifest;
        int64_t cut = 0;
        bool ok = false;
        Peer peer;

        manifest_make(&manifest, sizes[i]);
        peer_init(&peer);
        peer.config.repeat = true;
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        script_completed(&peer);
        peer_start(&peer);
        for (; !ok; cut++) {
            wire_server_cut(peer.server, cut);
            peer.err = ERROR_INIT;
            peer.conn = conn_open(&peer.conn_config, &peer.err);
            ok = peer.conn != NULL && upload(&peer, manifest.path, NULL);
            conn_free(peer.conn);
            peer.conn = NULL;
            assert_int_equal(peer.err.code, ok ? ERR_NONE : ERR_CONNECTION);
        }
        /* the connection, COPY IN, the completion */
        assert_true(cut > 100);
        peer_done(&peer);
        manifest_free(&manifest);
    }
}

/* ---- stopping ---- */

/* The server does nothing any more; a stop comes while we wait for it, or was there before. */
static void
assert_stop_ends(Peer *peer, const Manifest *manifest, bool before)
{
    Thread thread = {.running = false};
    Stop stop;

    assert_true(stop_init(&stop, &peer->err));
    wire_stall(&peer->script, NULL);
    peer_connect(peer);
    if (before)
        stop_request(&stop);
    else
        assert_true(thread_start(&thread, request_stop_soon, &stop, &peer->err));
    assert_false(upload(peer, manifest->path, &stop));
    peer_assert_error(peer, ERR_STOPPED, "stopped");
    thread_join(&thread);
    peer_drop(peer);
    stop_destroy(&stop);
}

static void
stop_ends_every_wait(void **state)
{
    Manifest small;
    Manifest large;
    (void)state;

    manifest_make(&small, 10);
    manifest_make(&large, HUGE_MANIFEST);
    for (int before = 0; before < 2; before++) {
        Peer peer;

        peer_init(&peer); /* for the COPY */
        wire_expect(&peer.script, "UPLOAD_MANIFEST");
        assert_stop_ends(&peer, &small, before == 1);
        peer_init(&peer); /* for the server to take a piece */
        script_copy_in(&peer);
        assert_stop_ends(&peer, &large, before == 1);
        peer_init(&peer); /* for what the server makes of it */
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        assert_stop_ends(&peer, &small, before == 1);
        peer_init(&peer); /* the error that the server had before */
        script_copy_in(&peer);
        wire_step(&peer.script, WIRE_COPY_DATA);
        script_error(&peer, "could not parse backup manifest");
        assert_stop_ends(&peer, &large, before == 1);
    }
    manifest_free(&small);
    manifest_free(&large);
}

/* However fast the server takes them, no piece is sent after the stop. */
static void
stop_between_two_pieces(void **state)
{
    Manifest manifest;
    Peer peer;
    Stop stop;
    (void)state;

    manifest_make(&manifest, 2 * PIECE);
    peer_init(&peer);
    assert_true(stop_init(&stop, &peer.err));
    script_copy_in(&peer);
    wire_step(&peer.script, WIRE_COPY_DONE);
    peer_connect(&peer);
    stop_at_zero = &stop;
    countdown = 2;
    assert_false(upload(&peer, manifest.path, &stop));
    assert_int_equal(countdown, 0);
    countdown = -1;
    stop_at_zero = NULL;
    peer_assert_error(&peer, ERR_STOPPED, "stopped");
    conn_free(peer.conn);
    peer.conn = NULL;
    /* The server has read all there is when it has seen the connection end. */
    while (wire_server_sent(peer.server) == 0)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    (void)wire_server_stop(peer.server);
    assert_int_equal(wire_server_copy_data(peer.server, 0).len, PIECE);
    assert_null(wire_server_copy_data(peer.server, 1).data);
    peer_done(&peer);
    stop_destroy(&stop);
    manifest_free(&manifest);
}

/* ---- files ---- */

/* Without a word to the server. */
static void
files_that_cannot_be_read(void **state)
{
    char expected[600];
    TempDir dir;
    Peer peer;
    (void)state;

    temp_dir_make(&dir);
    temp_dir_write(&dir, "file", "x", 1);
    peer_init(&peer);
    script_usable(&peer);
    peer_connect(&peer);

    assert_false(upload(&peer, temp_dir_path(&dir, "missing"), NULL));
    (void)snprintf(expected, sizeof expected,
                   "could not open file \"%s/missing\": No such file or directory", dir.path);
    peer_assert_error(&peer, ERR_SYSTEM, expected);
    assert_false(upload(&peer, temp_dir_path(&dir, "file/below"), NULL));
    (void)snprintf(expected, sizeof expected,
                   "could not open file \"%s/file/below\": Not a directory", dir.path);
    peer_assert_error(&peer, ERR_SYSTEM, expected);
    assert_false(upload(&peer, dir.path, NULL));
    (void)snprintf(expected, sizeof expected, "could not read file \"%s\": Is a directory",
                   dir.path);
    peer_assert_error(&peer, ERR_SYSTEM, expected);
    /* Nobody will ever write into it. */
    assert_int_equal(mkfifo(temp_dir_path(&dir, "pipe"), 0600), 0);
    assert_false(upload(&peer, temp_dir_path(&dir, "pipe"), NULL));
    (void)snprintf(expected, sizeof expected, "\"%s/pipe\" is not a regular file", dir.path);
    peer_assert_error(&peer, ERR_USAGE, expected);

    assert_usable(&peer);
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_query(peer.server, 0), "IDENTIFY_SYSTEM");
    peer_done(&peer);
    temp_dir_remove(&dir);
}

/* A part of the manifest is not ended as if it were the whole. */
static void
file_that_cannot_be_read_to_its_end(void **state)
{
    char expected[600];
    Manifest manifest;
    (void)state;

    manifest_make(&manifest, 3 * PIECE);
    for (long n = 1; n <= 4; n++) {
        Peer peer;

        peer_init(&peer);
        if (n > 1) {
            script_copy_in(&peer);
            for (long i = 1; i < n; i++)
                wire_step(&peer.script, WIRE_COPY_DATA);
        }
        peer_connect(&peer);
        countdown = n;
        assert_false(upload(&peer, manifest.path, NULL));
        assert_int_equal(countdown, 0);
        countdown = -1;
        (void)snprintf(expected, sizeof expected, "could not read file \"%s\": %s", manifest.path,
                       strerror(EIO));
        peer_assert_error(&peer, ERR_SYSTEM, expected);
        peer_done(&peer);
    }
    manifest_free(&manifest);
}

/* Such a connection is for nothing any more, and says so. */
static void
connection_after_a_broken_upload(void **state)
{
    ServerIdentity identity;
    Manifest manifest;
    Peer peer;
    (void)state;

    manifest_make(&manifest, 3 * PIECE);
    peer_init(&peer);
    script_copy_in(&peer);
    wire_step(&peer.script, WIRE_COPY_DATA);
    peer_connect(&peer);
    countdown = 2;
    assert_false(upload(&peer, manifest.path, NULL));
    countdown = -1;
    peer.err = ERROR_INIT;
    assert_false(repl_identify_system(peer.conn, &identity, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not send replication command \"IDENTIFY_SYSTEM\": the connection is "
                      "in the middle of a COPY");
    peer_done(&peer);
    manifest_free(&manifest);
}

/* ---- servers that have no such command ---- */

static void
servers_before_17(void **state)
{
    static const char *const versions[] = {"16.14", "10.23"};
    (void)state;

    for (int i = 0; i < COUNT(versions); i++) {
        char hint[200];
        Peer peer;

        peer_init(&peer);
        peer.config.server_version = versions[i];
        peer_connect(&peer);
        assert_false(upload(&peer, "/nonexistent/manifest", NULL));
        (void)snprintf(hint, sizeof hint,
                       "The server is of version %s; this needs version 17 or later.", versions[i]);
        assert_string_equal(peer.err.hint, hint);
        peer_assert_error(&peer, ERR_UNSUPPORTED, "server does not support incremental backup");
        (void)wire_server_stop(peer.server);
        assert_null(wire_server_query(peer.server, 0));
        peer_done(&peer);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifests_of_all_sizes),
        cmocka_unit_test(answers_in_chunks),
        cmocka_unit_test(upload_twice),
        cmocka_unit_test(server_that_reads_late),
        cmocka_unit_test(error_instead_of_the_copy),
        cmocka_unit_test(error_in_the_middle),
        cmocka_unit_test(error_at_the_end),
        cmocka_unit_test(both_sides_send_at_once),
        cmocka_unit_test(server_that_leaves_says_why),
        cmocka_unit_test(server_that_leaves_in_silence),
        cmocka_unit_test(server_that_does_not_read),
        cmocka_unit_test(other_results_instead_of_the_copy),
        cmocka_unit_test(other_results_behind_the_copy),
        cmocka_unit_test(error_behind_the_completion),
        cmocka_unit_test(connection_cut_everywhere),
        cmocka_unit_test(stop_ends_every_wait),
        cmocka_unit_test(stop_between_two_pieces),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(file_that_cannot_be_read_to_its_end),
        cmocka_unit_test(connection_after_a_broken_upload),
        cmocka_unit_test(servers_before_17),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
