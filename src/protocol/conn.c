/*
 * Connections. The parameters are put together in the order of the stock tools, because libpq takes
 * the last value of a keyword: the connection string first, then what makes it a replication
 * connection, then what was given by itself (-h, -p, -U), then the password that a person typed.
 *
 * libpq can be interrupted while it connects only when it is polled from outside, but then it
 * ignores connect_timeout and with it the change to the next host. So a connection with a
 * connect_timeout is made by the blocking call, which that timeout bounds; without one it would
 * hang for ever and is polled.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/internal.h"

/* ---- parameters ---- */

typedef struct Params {
    const char **keywords; /* NULL at the end, as libpq takes them */
    const char **values;
    size_t count;
    PQconninfoOption *parsed; /* holds the strings of the connection string */
} Params;

/* Where a second connection has to go. */
typedef struct Pin {
    const char *host;
    const char *hostaddr; /* "" for a Unix socket */
    const char *port;
    const char *database; /* for SQL too; NULL: a physical replication connection */
} Pin;

/* More than what is added to a connection string, and the NULL at the end. */
#define PARAMS_OWN 16

/* An absent or empty value changes nothing, as in libpq. */
static void
params_add(Params *params, const char *keyword, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    params->keywords[params->count] = keyword;
    params->values[params->count] = value;
    params->count++;
}

static void
params_cut(Params *params, size_t count)
{
    while (params->count > count)
        params->keywords[--params->count] = NULL;
}

static void
params_free(Params *params)
{
    free(params->keywords);
    free(params->values);
    PQconninfoFree(params->parsed);
    *params = (Params){.count = 0};
}

static bool
keyword_is_place(const char *keyword)
{
    return strcmp(keyword, "host") == 0 || strcmp(keyword, "hostaddr") == 0 ||
           strcmp(keyword, "port") == 0;
}

static void
params_add_parsed(Params *params, const Pin *pin)
{
    if (params->parsed == NULL)
        return;
    for (const PQconninfoOption *option = params->parsed; option->keyword != NULL; option++) {
        if (pin == NULL || !keyword_is_place(option->keyword))
            params_add(params, option->keyword, option->val);
    }
}

static void
params_add_place(Params *params, const ConnConfig *config, const Pin *pin)
{
    if (pin == NULL) {
        params_add(params, "host", config->host);
        params_add(params, "port", config->port);
        return;
    }
    /* The name stays beside the address: TLS certificates and Kerberos are about names. */
    params_add(params, "host", pin->host);
    params_add(params, "hostaddr", pin->hostaddr);
    params_add(params, "port", pin->port);
}

/* `params` is empty before, and to be freed also after a failure. */
static bool
params_build(Params *params, const ConnConfig *config, const Pin *pin, const char *password,
             Error *err)
{
    size_t parsed = 0;

    if (config->conninfo != NULL && !conninfo_parse(config->conninfo, &params->parsed, err))
        return false;
    while (params->parsed != NULL && params->parsed[parsed].keyword != NULL)
        parsed++;
    params->keywords = mem_zero((parsed + PARAMS_OWN) * sizeof *params->keywords, err);
    params->values = mem_zero((parsed + PARAMS_OWN) * sizeof *params->values, err);
    if (params->keywords == NULL || params->values == NULL)
        return false;

    /* The server ignores the database here; the password file is asked for it. */
    params_add(params, "dbname", "replication");
    params_add_parsed(params, pin);
    params_add(params, "dbname", pin == NULL ? NULL : pin->database);
    params_add(params, "replication", pin == NULL || pin->database == NULL ? "true" : "database");
    params_add(params, "fallback_application_name", config->progname);
    params_add_place(params, config, pin);
    params_add(params, "user", config->user);
    params_add(params, "password", password);
    return true;
}

/* ---- one attempt ---- */

/*
 * The connect_timeout in force, which may come from the environment or a service file too. libpq
 * works that out when a connection is started; this one it refuses for its options, before it opens
 * a socket (the password keeps it from reading the password file and from warning about it twice).
 */
static bool
params_have_timeout(Params *params)
{
    const size_t count = params->count;
    PGconn *probe;
    PQconninfoOption *options;
    long timeout = 0;

    params_add(params, "password", "-");
    params_add(params, "sslmode", "-");
    probe = PQconnectStartParams(params->keywords, params->values, 0);
    params_cut(params, count);
    options = PQconninfo(probe);
    for (const PQconninfoOption *option = options; option != NULL && option->keyword != NULL;
         option++) {
        if (strcmp(option->keyword, "connect_timeout") == 0 && option->val != NULL)
            timeout = strtol(option->val, NULL, 10);
    }
    PQconninfoFree(options);
    PQfinish(probe);
    return timeout > 0;
}

/* Until the attempt has ended, well or not; false: it was stopped or could not be watched. */
static bool
connect_poll(PGconn *pg, const ConnConfig *config, Error *err)
{
    const int64_t patience_ms = config->patience_ms > 0 ? config->patience_ms : -1;
    PostgresPollingStatusType polled = PGRES_POLLING_WRITING;

    while (polled != PGRES_POLLING_OK && polled != PGRES_POLLING_FAILED) {
        short events = polled == PGRES_POLLING_READING ? POLLIN : POLLOUT;

        switch (runtime_wait(PQsocket(pg), events, patience_ms, config->stop, NULL, err)) {
        case WAIT_READY:
            break;
        case WAIT_STOPPED:
            return error_set_stopped(err);
        case WAIT_TIMEOUT:
            return error_set(err, ERR_CONNECTION, "no answer from the server within %lld ms",
                             (long long)patience_ms);
        case WAIT_WOKEN:
        case WAIT_FAILED:
            return false;
        }
        polled = PQconnectPoll(pg);
    }
    return true;
}

/* A connection that was made or refused (see PQstatus), or NULL with the error. */
static PGconn *
connect_with(Params *params, const ConnConfig *config, Error *err)
{
    const Stop *stop = config->stop;
    bool timed = params_have_timeout(params);
    PGconn *pg = timed ? PQconnectdbParams(params->keywords, params->values, 0)
                       : PQconnectStartParams(params->keywords, params->values, 0);
    bool ended;

    if (pg == NULL) {
        (void)error_set_memory(err);
        return NULL;
    }
    if (timed)
        ended = stop == NULL || !stop_requested(stop) || error_set_stopped(err);
    else
        ended = PQstatus(pg) == CONNECTION_BAD || connect_poll(pg, config, err);
    if (!ended) {
        PQfinish(pg);
        return NULL;
    }
    return pg;
}

static PGconn *
connect_once(const ConnConfig *config, const Pin *pin, const char *password, Error *err)
{
    Params params = {.count = 0};
    PGconn *pg = NULL;

    if (params_build(&params, config, pin, password, err))
        pg = connect_with(&params, config, err);
    params_free(&params);
    return pg;
}

/* ---- the connection that came out of it ---- */

static bool
conn_check_server(Conn *conn, Error *err)
{
    const char *integer_datetimes = PQparameterStatus(conn->pg, "integer_datetimes");

    if (integer_datetimes == NULL)
        return error_set(err, ERR_PROTOCOL,
                         "could not determine server setting for integer_datetimes");
    if (strcmp(integer_datetimes, "on") != 0)
        return error_set(err, ERR_UNSUPPORTED,
                         "integer_datetimes compile flag does not match server");
    return server_features(PQserverVersion(conn->pg), conn_version_text(conn), &conn->features,
                           err);
}

/* Owns `pg`, whatever became of it. */
static Conn *
conn_adopt(PGconn *pg, const ConnConfig *config, Error *err)
{
    Conn *conn;

    if (PQstatus(pg) != CONNECTION_OK) {
        (void)error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(pg));
        PQfinish(pg);
        return NULL;
    }
    conn = mem_zero(sizeof *conn, err);
    if (conn == NULL) {
        PQfinish(pg);
        return NULL;
    }
    conn->pg = pg;
    conn->send_timeout_ms = SEND_TIMEOUT_MS;
    conn->stop = config->stop;
    conn->patience_ms = config->patience_ms;
    conn->encrypted = PQsslInUse(pg) || PQgssEncInUse(pg);
    if (!conn_check_server(conn, err)) {
        conn_free(conn);
        return NULL;
    }
    if (PQsetnonblocking(pg, 1) != 0) {
        (void)error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(pg));
        conn_free(conn);
        return NULL;
    }
    return conn;
}

static bool
password_ask(const ConnConfig *config, char password[PASSWORD_MAX], Error *err)
{
    if (!config->ask_password(config->ask_ctx, password, err))
        return false;
    password[PASSWORD_MAX - 1] = '\0';
    return true;
}

static Conn *
conn_open_asking(const ConnConfig *config, char password[PASSWORD_MAX], Error *err)
{
    bool may_ask = config->ask_password != NULL && config->prompt != PASSWORD_NEVER;
    PGconn *pg;

    if (may_ask && config->prompt == PASSWORD_ALWAYS) {
        may_ask = false;
        if (!password_ask(config, password, err))
            return NULL;
    }
    pg = connect_once(config, NULL, password, err);
    if (pg != NULL && may_ask && PQconnectionNeedsPassword(pg)) {
        PQfinish(pg);
        if (!password_ask(config, password, err))
            return NULL;
        pg = connect_once(config, NULL, password, err);
    }
    return pg == NULL ? NULL : conn_adopt(pg, config, err);
}

Conn *
conn_open(const ConnConfig *config, Error *err)
{
    char password[PASSWORD_MAX] = "";
    Conn *conn = conn_open_asking(config, password, err);

    explicit_bzero(password, sizeof password);
    return conn;
}

/* Where `first` is connected. */
static Pin
conn_place(const Conn *first)
{
    Pin pin = {
        .host = PQhost(first->pg), .hostaddr = PQhostaddr(first->pg), .port = PQport(first->pg)};

    /* libpq tells a link-local address without its zone: not enough to connect to. */
    if (strncasecmp(pin.hostaddr, "fe80:", 5) == 0)
        pin.hostaddr = "";
    return pin;
}

Conn *
conn_open_database_beside(const Conn *first, const ConnConfig *config, const char *database,
                          Error *err)
{
    Pin pin = conn_place(first);
    PGconn *pg;

    pin.database = database;
    /* libpq holds the password that it used, also one from the password file. */
    pg = connect_once(config, &pin, PQpass(first->pg), err);
    return pg == NULL ? NULL : conn_adopt(pg, config, err);
}

Conn *
conn_open_beside(const Conn *first, const ConnConfig *config, Error *err)
{
    return conn_open_database_beside(first, config, NULL, err);
}

void
conn_free(Conn *conn)
{
    if (conn == NULL)
        return;
    copy_enter(conn, MODE_COMMAND);
    PQclear(conn->ahead);
    PQfinish(conn->pg);
    free(conn);
}

const ServerFeatures *
conn_features(const Conn *conn)
{
    return &conn->features;
}

const char *
conn_version_text(const Conn *conn)
{
    const char *text = PQparameterStatus(conn->pg, "server_version");

    return text == NULL ? "'unknown'" : text;
}

const char *
conn_host(const Conn *conn)
{
    return PQhost(conn->pg);
}

int
conn_backend_pid(const Conn *conn)
{
    return PQbackendPID(conn->pg);
}

const Stop *
conn_stop(const Conn *conn)
{
    return conn->stop;
}
