/*
 * Message layouts (documentation: "Streaming Replication Protocol"). All numbers are big-endian. A
 * message is exactly as long as its layout says: a byte too few or too many is a protocol error.
 */
#include <string.h>

#include "protocol/protocol.h"

/* ---- typed messages of BASE_BACKUP ---- */

static bool
malformed_copy(Span message, Error *err)
{
    return error_set(err, ERR_PROTOCOL, "malformed COPY message of type %d, length %zu",
                     message.data[0], message.len);
}

/* The name becomes a file name in the backup directory. */
static bool
archive_name_is_safe(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strpbrk(name, "/\\") == NULL;
}

static bool
new_archive_parse(Reader *reader, Span message, BackupMessage *parsed, Error *err)
{
    parsed->archive_name = read_cstring(reader);
    parsed->tablespace_path = read_cstring(reader);
    if (!reader_complete(reader))
        return malformed_copy(message, err);
    if (!archive_name_is_safe(parsed->archive_name))
        return error_set(err, ERR_PROTOCOL, "invalid archive name: \"%s\"", parsed->archive_name);
    return true;
}

bool
backup_message_parse(Span message, BackupMessage *ret_message, Error *err)
{
    Reader reader = reader_of(message);
    BackupMessage parsed = {.kind = BACKUP_DATA};

    if (message.len == 0)
        return error_set(err, ERR_PROTOCOL, "empty COPY message");
    switch (read_u8(&reader)) {
    case 'n':
        parsed.kind = BACKUP_NEW_ARCHIVE;
        if (!new_archive_parse(&reader, message, &parsed, err))
            return false;
        break;
    case 'd':
        parsed.data = read_rest(&reader);
        break;
    case 'p':
        parsed.kind = BACKUP_PROGRESS;
        parsed.bytes_done = read_be64(&reader);
        if (!reader_complete(&reader) || parsed.bytes_done > INT64_MAX)
            return malformed_copy(message, err);
        break;
    case 'm':
        parsed.kind = BACKUP_MANIFEST;
        if (!reader_complete(&reader))
            return malformed_copy(message, err);
        break;
    default:
        return malformed_copy(message, err);
    }
    *ret_message = parsed;
    return true;
}

/* ---- messages of START_REPLICATION ---- */

static bool
malformed_wal(Span message, Error *err)
{
    return error_set(err, ERR_PROTOCOL, "malformed replication message of type %d, length %zu",
                     message.data[0], message.len);
}

bool
wal_message_parse(Span message, WalMessage *ret_message, Error *err)
{
    Reader reader = reader_of(message);
    WalMessage parsed = {.kind = WAL_DATA};

    if (message.len == 0)
        return error_set(err, ERR_PROTOCOL, "empty replication message");
    switch (read_u8(&reader)) {
    case 'w':
        parsed.start = read_be64(&reader);
        parsed.server_end = read_be64(&reader);
        parsed.sent_at = (int64_t)read_be64(&reader);
        parsed.data = read_rest(&reader);
        break;
    case 'k':
        parsed.kind = WAL_KEEPALIVE;
        parsed.server_end = read_be64(&reader);
        parsed.sent_at = (int64_t)read_be64(&reader);
        parsed.reply_requested = read_u8(&reader) != 0;
        break;
    default:
        return error_set(err, ERR_PROTOCOL, "unrecognized streaming header: type %d, length %zu",
                         message.data[0], message.len);
    }
    if (!reader_complete(&reader))
        return malformed_wal(message, err);
    /* Whoever adds the length to the position must not get a small number. */
    if (parsed.data.len > UINT64_MAX - parsed.start)
        return error_set(err, ERR_PROTOCOL,
                         "%zu bytes of WAL at " LSN_FORMAT " end beyond all LSNs", parsed.data.len,
                         LSN_ARGS(parsed.start));
    *ret_message = parsed;
    return true;
}

void
status_message_format(const StatusMessage *status, uint8_t ret_bytes[STATUS_MESSAGE_SIZE])
{
    ret_bytes[0] = 'r';
    put_be64(ret_bytes + 1, status->written);
    put_be64(ret_bytes + 9, status->flushed);
    put_be64(ret_bytes + 17, status->applied);
    put_be64(ret_bytes + 25, (uint64_t)status->sent_at);
    ret_bytes[33] = status->reply_requested ? 1 : 0;
}

/* ---- quoting ---- */

/* The replication grammar knows no escape but the doubled quote; a backslash is itself. */
static bool
quote(Buf *buf, const char *text, char mark, Error *err)
{
    if (!buf_append(buf, &mark, 1, err))
        return false;
    for (;;) {
        const char *found = strchr(text, mark);
        size_t len = found == NULL ? strlen(text) : (size_t)(found - text) + 1;

        /* A quote goes out with the text before it, and once more. */
        if (!buf_append(buf, text, len, err))
            return false;
        if (!buf_append(buf, &mark, 1, err))
            return false;
        if (found == NULL)
            return true;
        text = found + 1;
    }
}

bool
repl_quote_literal(Buf *buf, const char *text, Error *err)
{
    return quote(buf, text, '\'', err);
}

bool
repl_quote_identifier(Buf *buf, const char *text, Error *err)
{
    return quote(buf, text, '"', err);
}
