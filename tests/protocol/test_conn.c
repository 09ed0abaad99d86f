#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer.h"
#include "protocol/internal.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A server that lets everybody in and then waits for them to go. */
static void
start_open_server(Peer *peer)
{
    peer_init(peer);
    wire_stall(&peer->script, NULL);
    peer->config.repeat = true;
    peer_start(peer);
}

static void
assert_refused(Peer *peer, const ConnConfig *config, ErrorCode code, const char *message)
{
    Conn *conn = conn_open(config, &peer->err);

    assert_null(conn);
    peer_assert_error(peer, code, message);
}

/* ---- parameters ---- */

static void
startup_parameters(void **state)
{
    Peer peer;

    (void)state;
    start_open_server(&peer);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    assert_int_equal(conn_features(peer.conn)->major, 18);
    assert_int_equal(conn_features(peer.conn)->version, 180004);
    assert_string_equal(conn_version_text(peer.conn), "18.4");
    assert_int_equal(conn_backend_pid(peer.conn), 4711);
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_startup(peer.server, "user"), "tester");
    assert_string_equal(wire_server_startup(peer.server, "database"), "replication");
    assert_string_equal(wire_server_startup(peer.server, "replication"), "true");
    assert_string_equal(wire_server_startup(peer.server, "application_name"), "test");
    assert_null(wire_server_startup(peer.server, "options"));
    peer_done(&peer);
}

/* Connect with what is appended to the server's place; one startup parameter must come out. */
static void
assert_startup(const char *more, const char *user, const char *name, const char *value)
{
    char conninfo[300];
    Peer peer;

    start_open_server(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "%s %s", wire_server_conninfo(peer.server), more);
    peer.conn_config.conninfo = conninfo;
    peer.conn_config.user = user;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    if (peer.conn == NULL)
        fail_msg("%s", peer.err.message);
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_startup(peer.server, name), value);
    peer_done(&peer);
}

static void
connection_string_against_the_rest(void **state)
{
    (void)state;
    assert_startup("application_name=mine", NULL, "application_name", "mine");
    assert_startup("replication=database", NULL, "replication", "true");
    assert_startup("dbname=other", NULL, "database", "other");
    assert_startup("dbname='host=elsewhere'", NULL, "database", "host=elsewhere");
    assert_startup("user=first", "second", "user", "second");
    assert_startup("user=first", "", "user", "first");
    assert_startup("options='-c a=b'", NULL, "options", "-c a=b");
}

static void
single_options_override_the_connection_string(void **state)
{
    Peer peer;

    (void)state;
    start_open_server(&peer);
    peer.conn_config.conninfo = "postgresql://me@/nowhere?host=/nonexistent&port=1";
    peer.conn_config.host = wire_server_host(peer.server);
    peer.conn_config.port = wire_server_port(peer.server);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_startup(peer.server, "user"), "me");
    assert_string_equal(wire_server_startup(peer.server, "database"), "nowhere");
    peer_done(&peer);
}

static void
no_connection_string_at_all(void **state)
{
    Peer peer;

    (void)state;
    start_open_server(&peer);
    peer.conn_config = (ConnConfig){.host = wire_server_host(peer.server),
                                    .port = wire_server_port(peer.server),
                                    .user = "u",
                                    .progname = "prog"};
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_startup(peer.server, "application_name"), "prog");
    peer_done(&peer);
}

static void
malformed_connection_strings(void **state)
{
    Peer peer;

    (void)state;
    start_open_server(&peer);
    peer.conn_config.conninfo = "host";
    assert_refused(&peer, &peer.conn_config, ERR_USAGE,
                   "missing \"=\" after \"host\" in connection info string");
    peer.conn_config.conninfo = "colour=green";
    assert_refused(&peer, &peer.conn_config, ERR_USAGE, "invalid connection option \"colour\"");
    peer.conn_config.conninfo = "host=/nonexistent port=70000";
    assert_refused(&peer, &peer.conn_config, ERR_CONNECTION, "invalid port number: \"70000\"");
    (void)wire_server_stop(peer.server);
    assert_int_equal(wire_server_connections(peer.server), 0);
    peer_done(&peer);
}

/* ---- servers that will not do ---- */

static void
server_versions(void **state)
{
    static const struct {
        const char *version;
        int major; /* 0: refused */
        const char *message;
    } cases[] = {{"10.23", 10, NULL},
                 {"14.23 (Debian 14.23-1.pgdg)", 14, NULL},
                 {"18beta1", 18, NULL},
                 {"19devel", 0, "incompatible server version 19devel"},
                 {"9.6.24", 0, "incompatible server version 9.6.24"},
                 {"many", 0, "incompatible server version many"}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Peer peer;

        peer_init(&peer);
        peer.config.server_version = cases[i].version;
        wire_stall(&peer.script, NULL);
        peer_start(&peer);
        if (cases[i].major == 0) {
            assert_refused(&peer, &peer.conn_config, ERR_UNSUPPORTED, cases[i].message);
        } else {
            peer.conn = conn_open(&peer.conn_config, &peer.err);
            assert_non_null(peer.conn);
            assert_int_equal(conn_features(peer.conn)->major, cases[i].major);
            assert_string_equal(conn_version_text(peer.conn), cases[i].version);
        }
        peer_done(&peer);
    }
}

static void
integer_datetimes(void **state)
{
    Peer peer;

    (void)state;
    peer_init(&peer);
    peer.config.integer_datetimes = "off";
    peer_start(&peer);
    assert_refused(&peer, &peer.conn_config, ERR_UNSUPPORTED,
                   "integer_datetimes compile flag does not match server");
    peer_done(&peer);

    peer_init(&peer);
    peer.config.integer_datetimes = "";
    peer_start(&peer);
    assert_refused(&peer, &peer.conn_config, ERR_PROTOCOL,
                   "could not determine server setting for integer_datetimes");
    peer_done(&peer);
}

static void
refusal_is_told_in_libpqs_words(void **state)
{
    char expected[400];
    Peer peer;

    (void)state;
    peer_init(&peer);
    peer.config.refuse = "sorry, too many clients already";
    peer_start(&peer);
    (void)snprintf(expected, sizeof expected,
                   "connection to server on socket \"%s/.s.PGSQL.%s\" failed: FATAL:  sorry, too "
                   "many clients already",
                   wire_server_host(peer.server), wire_server_port(peer.server));
    assert_refused(&peer, &peer.conn_config, ERR_CONNECTION, expected);
    peer_done(&peer);
}

static void
nobody_listens(void **state)
{
    char conninfo[200];
    TempDir dir;
    Peer peer;

    (void)state;
    temp_dir_make(&dir);
    peer_init(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "host=%s port=5 user=x", dir.path);
    peer.conn_config.conninfo = conninfo;
    assert_null(conn_open(&peer.conn_config, &peer.err));
    peer_assert_error_begins(&peer, ERR_CONNECTION, "connection to server on socket \"");
    temp_dir_remove(&dir);
}

/* ---- passwords ---- */

typedef struct Person {
    const char *answer; /* NULL: nobody there */
    int asked;
} Person;

static bool
ask(void *ctx, char password[PASSWORD_MAX], Error *err)
{
    Person *person = ctx;

    person->asked++;
    if (person->answer == NULL)
        return error_set(err, ERR_SYSTEM, "nobody there");
    (void)snprintf(password, PASSWORD_MAX, "%s", person->answer);
    return true;
}

/* A server that wants "secret", and how often it is connected to. */
static void
assert_password(PasswordPrompt prompt, Person *person, const char *in_conninfo, bool let_in,
                const char *message_end, int asked, size_t connections)
{
    char conninfo[300];
    Peer peer;

    peer_init(&peer);
    peer.config.password = "secret";
    peer.config.repeat = true;
    wire_stall(&peer.script, NULL);
    peer_start(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "%s %s", wire_server_conninfo(peer.server),
                   in_conninfo);
    peer.conn_config.conninfo = conninfo;
    peer.conn_config.prompt = prompt;
    if (person != NULL) {
        peer.conn_config.ask_password = ask;
        peer.conn_config.ask_ctx = person;
    }
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_int_equal(peer.conn != NULL, let_in);
    if (!let_in) {
        size_t len = strlen(peer.err.message);

        assert_true(len >= strlen(message_end));
        assert_string_equal(peer.err.message + len - strlen(message_end), message_end);
    }
    if (person != NULL)
        assert_int_equal(person->asked, asked);
    (void)wire_server_stop(peer.server);
    assert_int_equal(wire_server_connections(peer.server), connections);
    peer_done(&peer);
}

static void
password_when_needed(void **state)
{
    Person person = {.answer = "secret"};

    (void)state;
    assert_password(PASSWORD_IF_NEEDED, &person, "", true, NULL, 1, 2);
}

static void
password_in_the_connection_string(void **state)
{
    Person person = {.answer = "wrong"};

    (void)state;
    assert_password(PASSWORD_IF_NEEDED, &person, "password=secret", true, NULL, 0, 1);
}

static void
password_always(void **state)
{
    Person person = {.answer = "secret"};

    (void)state;
    assert_password(PASSWORD_ALWAYS, &person, "password=wrong", true, NULL, 1, 1);
}

static void
password_never(void **state)
{
    Person person = {.answer = "secret"};

    (void)state;
    assert_password(PASSWORD_NEVER, &person, "", false, "fe_sendauth: no password supplied", 0, 1);
}

static void
password_that_is_wrong_is_not_asked_for_again(void **state)
{
    Person person = {.answer = "wrong"};

    (void)state;
    assert_password(PASSWORD_IF_NEEDED, &person, "", false,
                    "failed: FATAL:  password authentication failed", 1, 2);
    person.asked = 0;
    assert_password(PASSWORD_ALWAYS, &person, "", false,
                    "failed: FATAL:  password authentication failed", 1, 1);
    person.asked = 0;
    assert_password(PASSWORD_IF_NEEDED, &person, "password=wrong", false,
                    "failed: FATAL:  password authentication failed", 0, 1);
}

static void
password_that_is_empty(void **state)
{
    Person person = {.answer = ""};

    (void)state;
    assert_password(PASSWORD_IF_NEEDED, &person, "", false, "fe_sendauth: no password supplied", 1,
                    2);
    person.asked = 0;
    assert_password(PASSWORD_ALWAYS, &person, "", false, "fe_sendauth: no password supplied", 1, 1);
}

static void
nobody_to_ask(void **state)
{
    Person person = {.answer = NULL};

    (void)state;
    assert_password(PASSWORD_IF_NEEDED, &person, "", false, "nobody there", 1, 1);
    person.asked = 0;
    assert_password(PASSWORD_ALWAYS, &person, "", false, "nobody there", 1, 0);
    assert_password(PASSWORD_IF_NEEDED, NULL, "", false, "fe_sendauth: no password supplied", 0, 1);
}

/* ---- the second connection ---- */

/* One more connection beside peer->conn; how the server saw it. */
static void
assert_beside(Peer *peer)
{
    Conn *second = conn_open_beside(peer->conn, &peer->conn_config, &peer->err);

    if (second == NULL)
        fail_msg("%s", peer->err.message);
    assert_int_equal(conn_backend_pid(peer->conn), 4711);
    assert_int_equal(conn_backend_pid(second), 4712);
    conn_free(second);
    (void)wire_server_stop(peer->server);
    assert_int_equal(wire_server_connections(peer->server), 2);
    assert_string_equal(wire_server_startup(peer->server, "application_name"), "test");
    assert_string_equal(wire_server_startup(peer->server, "replication"), "true");
}

static void
beside_uses_the_password_of_the_first(void **state)
{
    Person person = {.answer = "secret"};
    Peer peer;

    (void)state;
    peer_init(&peer);
    peer.config.password = "secret";
    peer.config.repeat = true;
    wire_stall(&peer.script, NULL);
    peer.conn_config.prompt = PASSWORD_ALWAYS;
    peer.conn_config.ask_password = ask;
    peer.conn_config.ask_ctx = &person;
    peer_connect(&peer);
    person.answer = "wrong";
    assert_beside(&peer);
    assert_int_equal(person.asked, 1);
    peer_done(&peer);
}

/* A socket that takes connections and never answers. */
static int
listen_and_say_nothing(const char *directory, const char *port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(address.sun_path, sizeof address.sun_path, "%.80s/.s.PGSQL.%.10s", directory,
                   port);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 5), 0);
    return fd;
}

/* Of two hosts the first is down when we connect, and up again when the second connection is made.
 */
static void
beside_stays_with_the_host(void **state)
{
    char conninfo[400];
    TempDir dir;
    Peer peer;
    int fd;

    (void)state;
    temp_dir_make(&dir);
    start_open_server(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "host=%s,%s port=%s user=x", dir.path,
                   wire_server_host(peer.server), wire_server_port(peer.server));
    peer.conn_config.conninfo = conninfo;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    fd = listen_and_say_nothing(dir.path, wire_server_port(peer.server));
    assert_beside(&peer);
    (void)close(fd);
    peer_done(&peer);
    temp_dir_remove(&dir);
}

static void
beside_a_socket_among_addresses(void **state)
{
    char conninfo[400];
    Peer peer;

    (void)state;
    start_open_server(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "host=%s,other hostaddr=,127.0.0.1 port=%s user=x",
                   wire_server_host(peer.server), wire_server_port(peer.server));
    peer.conn_config.conninfo = conninfo;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    assert_beside(&peer);
    peer_done(&peer);
}

static void
beside_over_tcp(void **state)
{
    static const char *const places[] = {
        "host=127.0.0.1 port=%s",
        "hostaddr=127.0.0.1 port=%s",
        "host=a.name.that.is.not.looked.up hostaddr=127.0.0.1 port=%s",
        "host=127.0.0.1,127.0.0.1 port=1,%s",
        "hostaddr=127.0.0.1,127.0.0.1 port=1,%s",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(places); i++) {
        char conninfo[400] = "user=x ";
        Peer peer;
        char *at;

        peer_init(&peer);
        peer.config.tcp = true;
        peer.config.repeat = true;
        wire_stall(&peer.script, NULL);
        peer_start(&peer);
        (void)snprintf(conninfo, sizeof conninfo, "user=x %s", places[i]);
        at = strstr(conninfo, "%s");
        (void)snprintf(at, sizeof conninfo - (size_t)(at - conninfo), "%s",
                       wire_server_port(peer.server));
        peer.conn_config.conninfo = conninfo;
        peer.conn = conn_open(&peer.conn_config, &peer.err);
        if (peer.conn == NULL)
            fail_msg("%s: %s", conninfo, peer.err.message);
        assert_beside(&peer);
        peer_done(&peer);
    }
}

/* The single options that chose the place once do not choose it again. */
static void
beside_with_single_options(void **state)
{
    char hosts[300];
    char ports[64];
    TempDir dir;
    Peer peer;
    int fd;

    (void)state;
    temp_dir_make(&dir);
    start_open_server(&peer);
    (void)snprintf(hosts, sizeof hosts, "%s,%s", dir.path, wire_server_host(peer.server));
    (void)snprintf(ports, sizeof ports, "77,%s", wire_server_port(peer.server));
    peer.conn_config = (ConnConfig){.host = hosts, .port = ports, .user = "u", .progname = "test"};
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    fd = listen_and_say_nothing(dir.path, "77");
    assert_beside(&peer);
    (void)close(fd);
    peer_done(&peer);
    temp_dir_remove(&dir);
}

static void
beside_a_server_that_is_gone(void **state)
{
    Peer peer;

    (void)state;
    start_open_server(&peer);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    (void)wire_server_stop(peer.server);
    assert_null(conn_open_beside(peer.conn, &peer.conn_config, &peer.err));
    peer_assert_error_begins(&peer, ERR_CONNECTION, "connection to server on socket \"");
    peer_done(&peer);
}

/* ---- stopping ---- */

static void
request_stop_soon(void *arg)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    stop_request(arg);
}

static void
stop_ends_an_attempt_that_hangs(void **state)
{
    Thread thread;
    Stop stop;
    Stop never;
    Peer peer;

    (void)state;
    peer_init(&peer);
    assert_true(stop_init(&stop, &peer.err));
    assert_true(stop_init(&never, &peer.err));
    peer.config.hold = &never;
    peer.conn_config.stop = &stop;
    wire_stall(&peer.script, NULL);
    peer_start(&peer);
    assert_true(thread_start(&thread, request_stop_soon, &stop, &peer.err));
    assert_refused(&peer, &peer.conn_config, ERR_STOPPED, "stopped");
    thread_join(&thread);
    /* and one that is requested before */
    assert_refused(&peer, &peer.conn_config, ERR_STOPPED, "stopped");
    peer_done(&peer);
    stop_destroy(&stop);
    stop_destroy(&never);
}

static void
patience_ends_an_attempt_that_hangs(void **state)
{
    Stop never;
    Peer peer;

    (void)state;
    peer_init(&peer);
    assert_true(stop_init(&never, &peer.err));
    peer.config.hold = &never;
    peer.conn_config.patience_ms = 100;
    wire_stall(&peer.script, NULL);
    peer_start(&peer);
    assert_refused(&peer, &peer.conn_config, ERR_CONNECTION,
                   "no answer from the server within 100 ms");
    peer_done(&peer);
    stop_destroy(&never);
}

static void
patience_ends_a_command_that_hangs(void **state)
{
    ServerIdentity identity;
    Peer peer;

    (void)state;
    peer_init(&peer);
    peer.conn_config.patience_ms = 100;
    wire_stall(&peer.script, NULL);
    peer_start(&peer);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    assert_false(repl_identify_system(peer.conn, &identity, &peer.err));
    assert_int_equal(peer.err.code, ERR_CONNECTION);
    assert_non_null(strstr(peer.err.message, "no answer from the server within 100 ms"));
    peer_done(&peer);
}

/* connect_timeout (libpq's smallest is two seconds) moves on to the next host. */
static void
connect_timeout_still_works(void **state)
{
    static const char *const from_environment[] = {NULL, "2"};

    (void)state;
    for (size_t i = 0; i < COUNT(from_environment); i++) {
        char conninfo[400];
        TempDir dir;
        Peer peer;
        Stop stop;
        int fd;

        temp_dir_make(&dir);
        start_open_server(&peer);
        assert_true(stop_init(&stop, &peer.err));
        peer.conn_config.stop = &stop;
        fd = listen_and_say_nothing(dir.path, wire_server_port(peer.server));
        (void)snprintf(conninfo, sizeof conninfo, "host=%s,%s port=%s user=x %s", dir.path,
                       wire_server_host(peer.server), wire_server_port(peer.server),
                       from_environment[i] == NULL ? "connect_timeout=2" : "");
        if (from_environment[i] != NULL)
            (void)setenv("PGCONNECT_TIMEOUT", from_environment[i], 1);
        peer.conn_config.conninfo = conninfo;
        peer.conn = conn_open(&peer.conn_config, &peer.err);
        (void)unsetenv("PGCONNECT_TIMEOUT");
        if (peer.conn == NULL)
            fail_msg("%s", peer.err.message);
        (void)wire_server_stop(peer.server);
        assert_int_equal(wire_server_connections(peer.server), 1);
        (void)close(fd);
        peer_done(&peer);
        temp_dir_remove(&dir);
        stop_destroy(&stop);
    }
}

static void
connect_timeout_that_was_stopped(void **state)
{
    char conninfo[300];
    Peer peer;
    Stop stop;

    (void)state;
    start_open_server(&peer);
    assert_true(stop_init(&stop, &peer.err));
    stop_request(&stop);
    peer.conn_config.stop = &stop;
    (void)snprintf(conninfo, sizeof conninfo, "%s connect_timeout=5",
                   wire_server_conninfo(peer.server));
    peer.conn_config.conninfo = conninfo;
    assert_refused(&peer, &peer.conn_config, ERR_STOPPED, "stopped");
    peer_done(&peer);
    stop_destroy(&stop);
}

/* Working out the timeout in force neither connects nor changes the parameters. */
static void
looking_for_the_timeout_leaves_no_trace(void **state)
{
    char conninfo[300];
    Peer peer;

    (void)state;
    start_open_server(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "%s connect_timeout=0 sslmode=disable",
                   wire_server_conninfo(peer.server));
    peer.conn_config.conninfo = conninfo;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    (void)wire_server_stop(peer.server);
    assert_int_equal(wire_server_connections(peer.server), 1);
    peer_done(&peer);
}

/* ---- what a standby is told ---- */

static const char *
setting_of(const PQconninfoOption *settings, const char *keyword)
{
    for (; settings->keyword != NULL; settings++) {
        if (strcmp(settings->keyword, keyword) == 0)
            return settings->val;
    }
    return NULL;
}

/* conn_primary_conninfo, read back by libpq; the caller frees it with PQconninfoFree. */
static PQconninfoOption *
primary_settings(Peer *peer)
{
    PQconninfoOption *settings = NULL;
    Buf text = BUF_INIT;

    if (!conn_primary_conninfo(peer->conn, &peer->conn_config, &text, &peer->err) ||
        !conninfo_parse(buf_text(&text), &settings, &peer->err))
        fail_msg("%s", peer->err.message);
    buf_free(&text);
    return settings;
}

static void
primary_conninfo(void **state)
{
    static const char *const left_out[] = {"replication", "fallback_application_name", "dbname"};
    char conninfo[300];
    PQconninfoOption *live;
    PQconninfoOption *written;
    Peer peer;

    (void)state;
    start_open_server(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "%s password='it\\'s \\\\ me' options='-c a=b'",
                   wire_server_conninfo(peer.server));
    peer.conn_config.conninfo = conninfo;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    written = primary_settings(&peer);
    assert_string_equal(setting_of(written, "host"), wire_server_host(peer.server));
    assert_string_equal(setting_of(written, "port"), wire_server_port(peer.server));
    assert_string_equal(setting_of(written, "user"), "tester");
    assert_string_equal(setting_of(written, "password"), "it's \\ me");
    assert_string_equal(setting_of(written, "options"), "-c a=b");
    for (size_t i = 0; i < COUNT(left_out); i++)
        assert_null(setting_of(written, left_out[i]));

    /* and of the rest, whatever this libpq knows, nothing is lost and nothing is made up */
    live = PQconninfo(peer.conn->pg);
    for (const PQconninfoOption *setting = live; setting->keyword != NULL; setting++) {
        const char *value = setting_of(written, setting->keyword);
        bool wanted = setting->val != NULL && setting->val[0] != '\0';

        for (size_t i = 0; i < COUNT(left_out); i++)
            wanted = wanted && strcmp(setting->keyword, left_out[i]) != 0;
        if (wanted)
            assert_string_equal(value, setting->val);
        else
            assert_null(value);
    }
    PQconninfoFree(live);
    PQconninfoFree(written);
    peer_done(&peer);
}

static void
primary_conninfo_is_appended(void **state)
{
    Buf text = BUF_INIT;
    Peer peer;

    (void)state;
    start_open_server(&peer);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    assert_true(buf_printf(&text, &peer.err, "before: "));
    assert_true(conn_primary_conninfo(peer.conn, &peer.conn_config, &text, &peer.err));
    assert_memory_equal(buf_text(&text), "before: user=tester ", strlen("before: user=tester "));

    /* nothing of it when it fails */
    buf_clear(&text);
    assert_true(buf_printf(&text, &peer.err, "before"));
    peer.conn_config.conninfo = "host";
    assert_false(conn_primary_conninfo(peer.conn, &peer.conn_config, &text, &peer.err));
    peer_assert_error(&peer, ERR_USAGE, "missing \"=\" after \"host\" in connection info string");
    assert_string_equal(buf_text(&text), "before");
    buf_free(&text);
    peer_done(&peer);
}

/* The dbname that comes out of a connection string with `more`, PGDATABASE and PGSERVICE. */
static void
assert_primary_dbname(const char *more, const char *database, const char *service,
                      const char *expected)
{
    char conninfo[300];
    PQconninfoOption *written;
    const char *dbname;
    Peer peer;

    start_open_server(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "%s %s", wire_server_conninfo(peer.server), more);
    peer.conn_config.conninfo = conninfo;
    if (database != NULL)
        (void)setenv("PGDATABASE", database, 1);
    if (service != NULL)
        (void)setenv("PGSERVICE", service, 1);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    if (peer.conn == NULL)
        fail_msg("%s", peer.err.message);
    written = primary_settings(&peer);
    (void)unsetenv("PGDATABASE");
    (void)unsetenv("PGSERVICE");
    dbname = setting_of(written, "dbname");
    if (expected == NULL)
        assert_null(dbname);
    else
        assert_string_equal(dbname, expected);
    PQconninfoFree(written);
    peer_done(&peer);
}

static void
primary_conninfo_has_the_dbname_that_was_named(void **state)
{
    static const char services[] = "[with]\ndbname=serviced\n[without]\nconnect_timeout=9\n";
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    temp_dir_write(&dir, "services", services, sizeof services - 1);
    (void)setenv("PGSERVICEFILE", temp_dir_path(&dir, "services"), 1);
    assert_primary_dbname("", NULL, NULL, NULL);
    assert_primary_dbname("dbname=named", NULL, NULL, "named");
    assert_primary_dbname("dbname='it\\'s my data'", NULL, NULL, "it's my data");
    assert_primary_dbname("", "from_environment", NULL, "from_environment");
    assert_primary_dbname("dbname=named", "from_environment", NULL, "named");
    assert_primary_dbname("dbname=''", "from_environment", NULL, "from_environment");
    assert_primary_dbname("", NULL, "with", "serviced");
    assert_primary_dbname("", NULL, "without", NULL);
    assert_primary_dbname("dbname=named", NULL, "with", "named");
    /* as the stock tools have it, a service of the connection string is not asked */
    assert_primary_dbname("service=with", NULL, NULL, NULL);
    (void)unsetenv("PGSERVICEFILE");
    temp_dir_remove(&dir);
}

/* A list of hosts stays one, and what was given by itself or typed is there. */
static void
primary_conninfo_of_many_hosts(void **state)
{
    Person person = {.answer = "typed, 'quoted'"};
    PQconninfoOption *written;
    char hosts[300];
    char ports[64];
    TempDir dir;
    Peer peer;

    (void)state;
    temp_dir_make(&dir);
    start_open_server(&peer);
    (void)snprintf(hosts, sizeof hosts, "%s,%s", dir.path, wire_server_host(peer.server));
    (void)snprintf(ports, sizeof ports, "77,%s", wire_server_port(peer.server));
    peer.conn_config = (ConnConfig){.conninfo = "postgresql://me@elsewhere:1/my%20data",
                                    .host = hosts,
                                    .port = ports,
                                    .user = "you",
                                    .progname = "test",
                                    .prompt = PASSWORD_ALWAYS,
                                    .ask_password = ask,
                                    .ask_ctx = &person};
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    if (peer.conn == NULL)
        fail_msg("%s", peer.err.message);
    written = primary_settings(&peer);
    assert_string_equal(setting_of(written, "host"), hosts);
    assert_string_equal(setting_of(written, "port"), ports);
    assert_string_equal(setting_of(written, "user"), "you");
    assert_string_equal(setting_of(written, "password"), "typed, 'quoted'");
    assert_string_equal(setting_of(written, "dbname"), "my data");
    PQconninfoFree(written);
    peer_done(&peer);
    temp_dir_remove(&dir);
}

static void
free_takes_nothing(void **state)
{
    (void)state;
    conn_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(startup_parameters),
        cmocka_unit_test(connection_string_against_the_rest),
        cmocka_unit_test(single_options_override_the_connection_string),
        cmocka_unit_test(no_connection_string_at_all),
        cmocka_unit_test(malformed_connection_strings),
        cmocka_unit_test(server_versions),
        cmocka_unit_test(integer_datetimes),
        cmocka_unit_test(refusal_is_told_in_libpqs_words),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(password_when_needed),
        cmocka_unit_test(password_in_the_connection_string),
        cmocka_unit_test(password_always),
        cmocka_unit_test(password_never),
        cmocka_unit_test(password_that_is_wrong_is_not_asked_for_again),
        cmocka_unit_test(password_that_is_empty),
        cmocka_unit_test(nobody_to_ask),
        cmocka_unit_test(beside_uses_the_password_of_the_first),
        cmocka_unit_test(beside_stays_with_the_host),
        cmocka_unit_test(beside_a_socket_among_addresses),
        cmocka_unit_test(beside_over_tcp),
        cmocka_unit_test(beside_with_single_options),
        cmocka_unit_test(beside_a_server_that_is_gone),
        cmocka_unit_test(stop_ends_an_attempt_that_hangs),
        cmocka_unit_test(patience_ends_an_attempt_that_hangs),
        cmocka_unit_test(patience_ends_a_command_that_hangs),
        cmocka_unit_test(connect_timeout_still_works),
        cmocka_unit_test(connect_timeout_that_was_stopped),
        cmocka_unit_test(looking_for_the_timeout_leaves_no_trace),
        cmocka_unit_test(primary_conninfo),
        cmocka_unit_test(primary_conninfo_is_appended),
        cmocka_unit_test(primary_conninfo_has_the_dbname_that_was_named),
        cmocka_unit_test(primary_conninfo_of_many_hosts),
        cmocka_unit_test(free_takes_nothing),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
