#include "cmd/receivewal_failure.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- what the server says ---- */

/*
 * SQLSTATEs alone do not say it, and messages come in the server's language: but names are the same
 * in all of them.
 */
#define SQLSTATE_UNDEFINED_FILE   "58P01"
#define SQLSTATE_UNDEFINED_OBJECT "42704"
#define SQLSTATE_NOT_READY        "55000"

#define SEGMENT_NAME_LENGTH 24

static bool
is_server_error(const Error *failure, const char *sqlstate)
{
    return failure->code == ERR_SERVER && strcmp(failure->sqlstate, sqlstate) == 0;
}

/* Whether a text has the name of a WAL segment in it, by itself. */
static bool
names_segment(const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len;

    for (; *text != '\0'; text += len == 0 ? 1 : len) {
        len = strspn(text, hex);
        if (len == SEGMENT_NAME_LENGTH)
            return true;
    }
    return false;
}

static bool
is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* Whether a text has this name of a slot in it, not as a part of a word. */
static bool
names_slot(const char *text, const char *slot)
{
    size_t len = strlen(slot);

    for (const char *at = strstr(text, slot); len > 0 && at != NULL; at = strstr(at + 1, slot)) {
        if ((at == text || !is_name_character(at[-1])) && !is_name_character(at[len]))
            return true;
    }
    return false;
}

/* "requested WAL segment %s has already been removed". A history file can be missing too. */
static bool
is_gap(const Error *failure)
{
    return is_server_error(failure, SQLSTATE_UNDEFINED_FILE) && names_segment(failure->message);
}

bool
failure_is_missing_slot(const Error *failure, const char *slot)
{
    return slot != NULL && is_server_error(failure, SQLSTATE_UNDEFINED_OBJECT) &&
           names_slot(failure->message, slot);
}

/*
 * "can no longer access replication slot \"%s\"", since version 18: the server has stopped keeping
 * WAL for it, and will not again. Before, such a slot could be used, and the WAL was gone. That a
 * slot is a logical one has the same SQLSTATE, but its name is not in that message.
 */
static bool
is_invalidated_slot(const Error *failure, const char *slot)
{
    return slot != NULL && is_server_error(failure, SQLSTATE_NOT_READY) &&
           names_slot(failure->message, slot);
}

/* A server that has just taken over may get the slot in a moment. */
static bool
may_come_back(const FailureFacts *facts)
{
    return facts->streamed && facts->slot_missing_ms < SLOT_PATIENCE_MS;
}

static FailureAction
server_action(const Error *failure, const FailureFacts *facts)
{
    if (!facts->connected)
        return FAILURE_FATAL;
    if (failure_is_missing_slot(failure, facts->slot))
        return may_come_back(facts) ? FAILURE_RETRY : FAILURE_SLOT_LOST;
    if (is_invalidated_slot(failure, facts->slot))
        return FAILURE_SLOT_LOST;
    if (facts->streaming && is_gap(failure))
        return FAILURE_GAP;
    return FAILURE_RETRY;
}

/* ---- what our disk says ---- */

/* What a disk that is not quite there answers. One that was there and cannot be written any more
 * may have been set to read-only after a failure. */
static bool
may_recover(int errnum, const FailureFacts *facts)
{
    static const int passing[] = {EIO,     ENXIO,     ENODEV,    ESTALE,  EREMOTEIO,
                                  ENOLINK, ETIMEDOUT, EHOSTDOWN, ENOTCONN};

    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++) {
        if (errnum == passing[i])
            return true;
    }
    return errnum == EROFS && facts->streamed;
}

static FailureAction
system_action(const Error *failure, const FailureFacts *facts)
{
    if (failure->sys_errno == ENOSPC || failure->sys_errno == EDQUOT)
        return FAILURE_DISK_FULL;
    return may_recover(failure->sys_errno, facts) ? FAILURE_RETRY : FAILURE_FATAL;
}

bool
failure_is_ours(const Error *failure)
{
    return failure->code == ERR_SYSTEM;
}

/* ---- all ---- */

/* Before streaming it is the archive of another cluster. */
static FailureAction
mismatch_action(const FailureFacts *facts)
{
    if (!facts->streaming)
        return FAILURE_FATAL;
    return facts->times <= DAMAGE_RETRIES ? FAILURE_RETRY_AT_ONCE : FAILURE_DAMAGED;
}

FailureAction
failure_action(const Error *failure, const FailureFacts *facts)
{
    switch (failure->code) {
    case ERR_CONNECTION:
    case ERR_SERVER:
    case ERR_PROTOCOL:
        return server_action(failure, facts);
    case ERR_SYSTEM:
        return system_action(failure, facts);
    case ERR_MISMATCH:
        return mismatch_action(facts);
    case ERR_NONE:
    case ERR_USAGE:
    case ERR_MEMORY:
    case ERR_FORMAT:
    case ERR_UNSUPPORTED:
    case ERR_STOPPED:
    case ERR_BUG:
        break;
    }
    return FAILURE_FATAL;
}

/* ---- delays ---- */

int64_t
retry_delay_ms(unsigned number)
{
    static const int64_t delays[] = {500, 1000, 2000, 4000, 5000};
    size_t count = sizeof delays / sizeof delays[0];

    return delays[number < count ? number : count - 1];
}

void
retry_delay_text(int64_t delay_ms, char text[RETRY_TEXT_SIZE])
{
    long long tenths = (long long)delay_ms / 100;

    if (tenths % 10 != 0)
        (void)snprintf(text, RETRY_TEXT_SIZE, "%lld.%lld seconds", tenths / 10, tenths % 10);
    else
        (void)snprintf(text, RETRY_TEXT_SIZE, "%lld second%s", tenths / 10,
                       tenths == 10 ? "" : "s");
}
