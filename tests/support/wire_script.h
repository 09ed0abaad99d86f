/*
 * What a wire server says and waits for: messages of protocol 3, and scripts of them.
 *
 * Messages are appended to a Buf. Scripts are made and freed by the test. What fails here (memory)
 * ends the process: it is made for tests.
 */
#ifndef PGSTOW_TESTS_WIRE_SCRIPT_H
#define PGSTOW_TESTS_WIRE_SCRIPT_H

#include "common/bytes.h"
#include "common/runtime.h"

/* ---- messages of the server, appended to a Buf ---- */

void wire_auth_ok(Buf *out);
void wire_auth_cleartext(Buf *out);
void wire_parameter(Buf *out, const char *name, const char *value);
void wire_backend_key(Buf *out, uint32_t pid);
void wire_ready(Buf *out);
void wire_complete(Buf *out, const char *tag);

/* `columns` text columns named c0, c1, ... */
void wire_row_description(Buf *out, int columns);

/* Values as text; NULL is SQL's NULL. */
void wire_row(Buf *out, int columns, const char *const values[]);

/* A result set of one row: description, row, CommandComplete "SELECT". */
void wire_one_row(Buf *out, int columns, const char *const values[]);
void wire_copy_out(Buf *out);
void wire_copy_in(Buf *out);
void wire_copy_both(Buf *out);
void wire_copy_data(Buf *out, const void *data, size_t len);
void wire_copy_done(Buf *out);
void wire_error(Buf *out, const char *severity, const char *sqlstate, const char *message);
void wire_notice(Buf *out, const char *message);

/* Bytes as they are. */
void wire_bytes(Buf *out, const void *data, size_t len);

/* Any message: its type byte, its length, its body. */
void wire_message(Buf *out, char type, const void *body, size_t len);

/* ---- scripts ---- */

typedef enum WireStepKind {
    WIRE_EXPECT,    /* a query that begins with `text` */
    WIRE_SEND,      /* `bytes` */
    WIRE_COPY_DATA, /* one CopyData of the client */
    WIRE_COPY_DONE, /* the client's CopyDone; CopyData before it is taken */
    WIRE_STALL,     /* do nothing until `until` is requested or the client is gone */
    WIRE_CLOSE /* close the connection; so does the end of the script, once the client is gone */
} WireStepKind;

typedef struct WireStep {
    WireStepKind kind;
    char *text;
    Buf bytes;
    const Stop *until;
} WireStep;

typedef struct WireScript {
    WireStep *steps;
    size_t count;
    size_t capacity;
} WireScript;

#define WIRE_SCRIPT_INIT ((WireScript){.steps = NULL})

void wire_expect(WireScript *script, const char *command_prefix);

/* A step whose Buf the test fills with messages; the pointer is valid until the next step is added.
 */
Buf *wire_send(WireScript *script);
void wire_step(WireScript *script, WireStepKind kind);
void wire_stall(WireScript *script, const Stop *until);
void wire_script_free(WireScript *script);

/* ---- whole exchanges ---- */

/* For `columns` and `values`: ROW("1", NULL) is 2 and the two. */
#define ROW(...)                                                                                   \
    (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(const char *)), (const char *[])          \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* A command that is answered with one row. */
void wire_answer(WireScript *script, const char *command, int columns, const char *const values[]);

/* A command that is answered with an error. */
void wire_answer_error(WireScript *script, const char *command, const char *sqlstate,
                       const char *message);

/* A command that begins a stream; the Buf takes what is streamed first. */
Buf *wire_stream(WireScript *script, const char *command);

/* The client ends the stream, and the server agrees. */
void wire_stream_end(WireScript *script);

#endif
