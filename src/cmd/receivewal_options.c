/*
 * The command line of pg_receivewal: its options, and what goes together, in the order and words of
 * its checks; and options of our own.
 */
#include <limits.h>

#include "cmd/log.h"
#include "cmd/receivewal_cmd.h"

enum {
    OPT_ACCEPT_GAP = OPTION_LONG_ONLY,
    OPT_CREATE_SLOT,
    OPT_DROP_SLOT,
    OPT_IF_NOT_EXISTS,
    OPT_NO_SYNC,
    OPT_RECEIVE_TIMEOUT,
    OPT_STATUS_FILE,
    OPT_SYNCHRONOUS
};

#define SECONDS_MAX (INT_MAX / 1000)

const Option receivewal_options[] = {
    {0, NULL, NULL, "Options:"},
    {'D', "directory", "DIR", "receive write-ahead log files into this directory"},
    {'E', "endpos", "LSN", "exit after receiving the specified LSN"},
    {OPT_IF_NOT_EXISTS, "if-not-exists", NULL,
     "do not error if slot already exists when creating a slot"},
    {'n', "no-loop", NULL, "do not loop on connection lost"},
    {OPT_NO_SYNC, "no-sync", NULL, "do not wait for changes to be written safely to disk"},
    {'s', "status-interval", "SECS", "time between status packets sent to server (default: 10)"},
    {'S', "slot", "SLOTNAME", "replication slot to use"},
    {OPT_SYNCHRONOUS, "synchronous", NULL, "flush write-ahead log immediately after writing"},
    {'v', "verbose", NULL, "output verbose messages"},
    VERSION_OPTION,
    {'Z', "compress", "METHOD[:DETAIL]", "compress as specified"},
    HELP_OPTION,
    CONNECTION_PLACE_OPTIONS,
    CONNECTION_ROLE_OPTIONS,
    {0, NULL, NULL, "Optional actions:"},
    {OPT_CREATE_SLOT, "create-slot", NULL,
     "create a new replication slot (for the slot's name see --slot)"},
    {OPT_DROP_SLOT, "drop-slot", NULL,
     "drop the replication slot (for the slot's name see --slot)"},
    {0, NULL, NULL, "Options that the stock tool does not have:"},
    {OPT_ACCEPT_GAP, "accept-gap", NULL,
     "go on where the server can, when it has removed WAL in between"},
    {OPT_RECEIVE_TIMEOUT, "receive-timeout", "SECS",
     "give up a connection that is silent for so long (default: 60)"},
    {OPT_STATUS_FILE, "status-file", "PATH", "keep the state in this file, as JSON"},
    {0, NULL, NULL, NULL},
};

/* ---- taking an option ---- */

static bool
parse_end(const char *value, Lsn *ret_end)
{
    if (lsn_parse(value, ret_end))
        return true;
    log_error("could not parse end position \"%s\"", value);
    return false;
}

static bool
parse_seconds(const char *value, const char *option, int64_t *ret_ms)
{
    int seconds;

    if (!option_parse_int(value, option, 0, SECONDS_MAX, &seconds))
        return false;
    *ret_ms = (int64_t)seconds * 1000;
    return true;
}

/* Options without a value: what they set; NULL for others. */
static bool *
flag_of(ReceiveRequest *request, int id)
{
    switch (id) {
    case 'n':
        return &request->no_loop;
    case 'v':
        return &request->verbose;
    case OPT_ACCEPT_GAP:
        return &request->accept_gap;
    case OPT_CREATE_SLOT:
        return &request->create_slot;
    case OPT_DROP_SLOT:
        return &request->drop_slot;
    case OPT_IF_NOT_EXISTS:
        return &request->if_not_exists;
    case OPT_NO_SYNC:
        return &request->no_sync;
    case OPT_SYNCHRONOUS:
        return &request->synchronous;
    default:
        return NULL;
    }
}

/* Options whose value is taken as it is: where it goes; NULL for others. */
static const char **
text_of(ReceiveRequest *request, int id)
{
    switch (id) {
    case 'D':
        return &request->directory;
    case 'S':
        return &request->slot;
    case OPT_STATUS_FILE:
        return &request->status_file;
    default:
        return NULL;
    }
}

static bool
take_simple(ReceiveRequest *request, int id, const char *value)
{
    bool *flag = flag_of(request, id);
    const char **text = text_of(request, id);

    if (flag != NULL)
        *flag = true;
    else if (text != NULL)
        *text = value;
    else
        return connect_option(&request->conn, id, value);
    return true;
}

static bool
take_option(void *ctx, int id, const char *value)
{
    ReceiveRequest *request = ctx;

    switch (id) {
    case 'E':
        return parse_end(value, &request->end);
    case 's':
        return parse_seconds(value, "-s/--status-interval", &request->status_interval_ms);
    case 'Z':
        return compress_option_set(&request->compress_option, value);
    case OPT_RECEIVE_TIMEOUT:
        return parse_seconds(value, "--receive-timeout", &request->receive_timeout_ms);
    default:
        return take_simple(request, id, value);
    }
}

/* ---- what goes together ---- */

static bool
check_request(const ReceiveRequest *request)
{
    if (request->create_slot && request->drop_slot)
        return options_conflict("cannot use --create-slot together with --drop-slot");
    if (request->slot == NULL && (request->create_slot || request->drop_slot))
        return options_conflict(request->create_slot
                                    ? "--create-slot needs a slot to be specified using --slot"
                                    : "--drop-slot needs a slot to be specified using --slot");
    if (request->synchronous && request->no_sync)
        return options_conflict("cannot use --synchronous together with --no-sync");
    if (request->directory == NULL && !request->create_slot && !request->drop_slot)
        return options_conflict("no target directory specified");
    return true;
}

OptionResult
receive_request_read(ReceiveRequest *request, const Command *command, int argc, char **argv)
{
    int count;
    char **rest;
    OptionResult result;

    *request = (ReceiveRequest){
        .conn = {.progname = log_progname(), .ask_password = connect_ask_password},
        .status_interval_ms = 10000,
        .receive_timeout_ms = 60000,
    };
    request->conn.ask_ctx = &request->password;
    result = options_read(command, argc, argv, take_option, request, &count, &rest);
    if (result == OPTIONS_READ &&
        (!options_rest_allowed(count, rest, 0) || !check_request(request) ||
         !compress_option_parse(&request->compress_option, &request->compression)))
        return OPTIONS_EXIT_BAD;
    return result;
}

void
receive_request_free(ReceiveRequest *request)
{
    compress_option_free(&request->compress_option);
}
