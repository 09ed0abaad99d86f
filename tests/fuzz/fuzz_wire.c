/*
 * One CopyData message, read both as a message of BASE_BACKUP and as one of START_REPLICATION.
 * What is accepted can be written again from its fields, byte for byte; what is not leaves a
 * protocol error and no result. Whatever text the message holds can be quoted, and is one token
 * again.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "protocol/protocol.h"

static void
check(bool holds)
{
    if (!holds)
        abort();
}

static void
append(Buf *buf, const void *data, size_t len)
{
    Error err = ERROR_INIT;

    check(buf_append(buf, data, len, &err));
}

static void
append_be64(Buf *buf, uint64_t value)
{
    uint8_t bytes[8];

    put_be64(bytes, value);
    append(buf, bytes, sizeof bytes);
}

static void
backup_message_write(const BackupMessage *message, Buf *out)
{
    switch (message->kind) {
    case BACKUP_NEW_ARCHIVE:
        append(out, "n", 1);
        append(out, message->archive_name, strlen(message->archive_name) + 1);
        append(out, message->tablespace_path, strlen(message->tablespace_path) + 1);
        check(message->archive_name[0] != '\0' && message->archive_name[0] != '.');
        check(strpbrk(message->archive_name, "/\\") == NULL);
        break;
    case BACKUP_DATA:
        append(out, "d", 1);
        append(out, message->data.data, message->data.len);
        break;
    case BACKUP_PROGRESS:
        append(out, "p", 1);
        append_be64(out, message->bytes_done);
        check(message->bytes_done <= INT64_MAX);
        break;
    case BACKUP_MANIFEST:
        append(out, "m", 1);
        break;
    }
}

static void
wal_message_write(const WalMessage *message, uint8_t last, Buf *out)
{
    if (message->kind == WAL_DATA) {
        append(out, "w", 1);
        append_be64(out, message->start);
        append_be64(out, message->server_end);
        append_be64(out, (uint64_t)message->sent_at);
        append(out, message->data.data, message->data.len);
        check(message->start + message->data.len >= message->start);
        return;
    }
    append(out, "k", 1);
    append_be64(out, message->server_end);
    append_be64(out, (uint64_t)message->sent_at);
    check(message->reply_requested == (last != 0));
    append(out, &last, 1); /* any number but zero means yes */
}

static void
check_outcome(bool parsed, const Error *err, const Buf *again, Span input)
{
    if (parsed) {
        check(err->code == ERR_NONE);
        check(again->len == input.len && memcmp(again->data, input.data, input.len) == 0);
    } else {
        check(err->code == ERR_PROTOCOL && err->message[0] != '\0');
        check(again->len == 0);
    }
}

/* Read as the server does: the quotes at both ends, doubled ones inside. */
static void
check_quoted(const char *text, const Buf *quoted, char mark)
{
    size_t at = 1;

    check(quoted->len >= 2 && quoted->data[0] == (uint8_t)mark);
    for (; *text != '\0'; text++, at++) {
        check(quoted->data[at] == (uint8_t)*text);
        if (*text == mark)
            check(quoted->data[++at] == (uint8_t)mark);
    }
    check(quoted->data[at] == (uint8_t)mark && at + 1 == quoted->len);
}

static void
quote(Span input)
{
    Error err = ERROR_INIT;
    Buf text = BUF_INIT;
    Buf quoted = BUF_INIT;

    append(&text, input.data, input.len);
    check(repl_quote_literal(&quoted, buf_text(&text), &err));
    check_quoted(buf_text(&text), &quoted, '\'');
    buf_clear(&quoted);
    check(repl_quote_identifier(&quoted, buf_text(&text), &err));
    check_quoted(buf_text(&text), &quoted, '"');
    buf_free(&quoted);
    buf_free(&text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const Span input = {.data = data, .len = size};
    BackupMessage backup;
    WalMessage wal;
    Error err = ERROR_INIT;
    Buf again = BUF_INIT;
    bool parsed = backup_message_parse(input, &backup, &err);

    if (parsed)
        backup_message_write(&backup, &again);
    check_outcome(parsed, &err, &again, input);

    err = ERROR_INIT;
    buf_clear(&again);
    parsed = wal_message_parse(input, &wal, &err);
    if (parsed)
        wal_message_write(&wal, data[size - 1], &again);
    check_outcome(parsed, &err, &again, input);
    buf_free(&again);

    quote(input);
    return 0;
}
