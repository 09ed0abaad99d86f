/*
 * Messages are documented in "Message Formats" of the PostgreSQL documentation.
 */
#include "support/wire_script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

static void
check(bool ok, const Error *err)
{
    if (ok)
        return;
    (void)fprintf(stderr, "test support: wire script: %s\n", err->message);
    abort();
}

void
wire_bytes(Buf *out, const void *data, size_t len)
{
    Error err = ERROR_INIT;

    check(buf_append(out, data, len, &err), &err);
}

static void
put_u8(Buf *out, uint8_t value)
{
    wire_bytes(out, &value, 1);
}

static void
put_u16(Buf *out, uint16_t value)
{
    put_u8(out, (uint8_t)(value >> 8));
    put_u8(out, (uint8_t)value);
}

static void
put_u32(Buf *out, uint32_t value)
{
    uint8_t bytes[4];

    put_be32(bytes, value);
    wire_bytes(out, bytes, sizeof bytes);
}

static void
put_text(Buf *out, const char *text)
{
    wire_bytes(out, text, strlen(text) + 1);
}

void
wire_message(Buf *out, char type, const void *body, size_t len)
{
    put_u8(out, (uint8_t)type);
    put_u32(out, (uint32_t)len + 4);
    wire_bytes(out, body, len);
}

/* As wire_message; takes the body over. */
static void
put_message(Buf *out, char type, Buf *body)
{
    wire_message(out, type, body->data, body->len);
    buf_free(body);
}

static void
put_auth(Buf *out, uint32_t kind)
{
    Buf body = BUF_INIT;

    put_u32(&body, kind);
    put_message(out, 'R', &body);
}

void
wire_auth_ok(Buf *out)
{
    put_auth(out, 0);
}

void
wire_auth_cleartext(Buf *out)
{
    put_auth(out, 3);
}

void
wire_parameter(Buf *out, const char *name, const char *value)
{
    Buf body = BUF_INIT;

    put_text(&body, name);
    put_text(&body, value);
    put_message(out, 'S', &body);
}

void
wire_backend_key(Buf *out, uint32_t pid)
{
    Buf body = BUF_INIT;

    put_u32(&body, pid);
    put_u32(&body, 0x5ec7e7);
    put_message(out, 'K', &body);
}

void
wire_ready(Buf *out)
{
    wire_message(out, 'Z', "I", 1);
}

void
wire_complete(Buf *out, const char *tag)
{
    wire_message(out, 'C', tag, strlen(tag) + 1);
}

void
wire_row_description(Buf *out, int columns)
{
    const uint32_t text_type = 25;
    Buf body = BUF_INIT;

    put_u16(&body, (uint16_t)columns);
    for (int i = 0; i < columns; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "c%d", i);
        put_text(&body, name);
        put_u32(&body, 0);
        put_u16(&body, 0);
        put_u32(&body, text_type);
        put_u16(&body, UINT16_MAX);
        put_u32(&body, UINT32_MAX);
        put_u16(&body, 0);
    }
    put_message(out, 'T', &body);
}

void
wire_row(Buf *out, int columns, const char *const values[])
{
    Buf body = BUF_INIT;

    put_u16(&body, (uint16_t)columns);
    for (int i = 0; i < columns; i++) {
        if (values[i] == NULL) {
            put_u32(&body, UINT32_MAX);
            continue;
        }
        put_u32(&body, (uint32_t)strlen(values[i]));
        wire_bytes(&body, values[i], strlen(values[i]));
    }
    put_message(out, 'D', &body);
}

void
wire_one_row(Buf *out, int columns, const char *const values[])
{
    wire_row_description(out, columns);
    wire_row(out, columns, values);
    wire_complete(out, "SELECT");
}

static void
put_copy_response(Buf *out, char type)
{
    Buf body = BUF_INIT;

    put_u8(&body, 0);
    put_u16(&body, 0);
    put_message(out, type, &body);
}

void
wire_copy_out(Buf *out)
{
    put_copy_response(out, 'H');
}

void
wire_copy_in(Buf *out)
{
    put_copy_response(out, 'G');
}

void
wire_copy_both(Buf *out)
{
    put_copy_response(out, 'W');
}

void
wire_copy_data(Buf *out, const void *data, size_t len)
{
    wire_message(out, 'd', data, len);
}

void
wire_copy_done(Buf *out)
{
    wire_message(out, 'c', NULL, 0);
}

static void
put_report(Buf *out, char type, const char *severity, const char *sqlstate, const char *message)
{
    const struct {
        uint8_t code;
        const char *text;
    } fields[] = {{'S', severity}, {'V', severity}, {'C', sqlstate}, {'M', message}};
    Buf body = BUF_INIT;

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].text == NULL)
            continue;
        put_u8(&body, fields[i].code);
        put_text(&body, fields[i].text);
    }
    put_u8(&body, 0);
    put_message(out, type, &body);
}

void
wire_error(Buf *out, const char *severity, const char *sqlstate, const char *message)
{
    put_report(out, 'E', severity, sqlstate, message);
}

void
wire_notice(Buf *out, const char *message)
{
    put_report(out, 'N', "NOTICE", "00000", message);
}

/* ---- scripts ---- */

static WireStep *
add_step(WireScript *script, WireStepKind kind)
{
    void *steps = script->steps;
    Error err = ERROR_INIT;

    check(mem_grow(&steps, &script->capacity, script->count + 1, sizeof(WireStep), &err), &err);
    script->steps = steps;
    script->steps[script->count] = (WireStep){.kind = kind};
    return &script->steps[script->count++];
}

void
wire_expect(WireScript *script, const char *command_prefix)
{
    Error err = ERROR_INIT;
    WireStep *step = add_step(script, WIRE_EXPECT);

    step->text = mem_strdup(command_prefix, &err);
    check(step->text != NULL, &err);
}

Buf *
wire_send(WireScript *script)
{
    return &add_step(script, WIRE_SEND)->bytes;
}

void
wire_step(WireScript *script, WireStepKind kind)
{
    (void)add_step(script, kind);
}

void
wire_stall(WireScript *script, const Stop *until)
{
    add_step(script, WIRE_STALL)->until = until;
}

void
wire_script_free(WireScript *script)
{
    for (size_t i = 0; i < script->count; i++) {
        free(script->steps[i].text);
        buf_free(&script->steps[i].bytes);
    }
    free(script->steps);
    *script = WIRE_SCRIPT_INIT;
}

/* ---- whole exchanges ---- */

void
wire_answer(WireScript *script, const char *command, int columns, const char *const values[])
{
    Buf *out;

    wire_expect(script, command);
    out = wire_send(script);
    wire_one_row(out, columns, values);
    wire_ready(out);
}

void
wire_answer_error(WireScript *script, const char *command, const char *sqlstate,
                  const char *message)
{
    Buf *out;

    wire_expect(script, command);
    out = wire_send(script);
    wire_error(out, "ERROR", sqlstate, message);
    wire_ready(out);
}

Buf *
wire_stream(WireScript *script, const char *command)
{
    Buf *out;

    wire_expect(script, command);
    out = wire_send(script);
    wire_copy_both(out);
    return out;
}

void
wire_stream_end(WireScript *script)
{
    Buf *out;

    wire_step(script, WIRE_COPY_DONE);
    out = wire_send(script);
    wire_copy_done(out);
    wire_complete(out, "START_STREAMING");
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
}
