/*
 * Errors: what went wrong, as a value.
 *
 * A function that can fail takes an `Error *err` as its last argument and returns bool (or an
 * owner, or NULL). It either succeeds and leaves `err` alone, or fails and has set it. The caller
 * owns the Error, it is never NULL, needs no freeing and may be copied between threads.
 *
 * Messages: what happened, to what, with which value; lower case, no full stop, names in double
 * quotes. `hint` is a full sentence that says what to do, or empty.
 * Damage found in a backup is a result (see verify.h), not an Error; not being able to look is one.
 */
#ifndef PGSTOW_ERROR_H
#define PGSTOW_ERROR_H

#include <stdbool.h>

#include "common/attr.h"

typedef enum ErrorCode {
    ERR_NONE = 0,
    ERR_USAGE,       /* options or arguments that make no sense */
    ERR_MEMORY,      /* an allocation failed */
    ERR_SYSTEM,      /* the operating system refused; see sys_errno */
    ERR_CONNECTION,  /* no connection, or it broke */
    ERR_SERVER,      /* the server answered with an error; see sqlstate */
    ERR_PROTOCOL,    /* the server sent what the protocol does not allow */
    ERR_FORMAT,      /* bytes that are not what their format says */
    ERR_UNSUPPORTED, /* well-formed, but not something we handle */
    ERR_STOPPED,     /* the user or another thread asked to stop */
    ERR_MISMATCH,    /* verification found damage and the operation must not succeed */
    ERR_BUG          /* our own mistake */
} ErrorCode;

typedef struct Error {
    ErrorCode code;
    int sys_errno;    /* for ERR_SYSTEM, else 0 */
    char sqlstate[6]; /* for ERR_SERVER, else "" */
    char message[768];
    char hint[192];
} Error;

#define ERROR_INIT ((Error){.code = ERR_NONE})

/* Set `err`. All of them return false, so that a failing function ends with `return
 * error_set(...)`. */
bool error_set(Error *err, ErrorCode code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* As error_set with ERR_SYSTEM; appends ": " and the text of `errnum`. */
bool error_set_errno(Error *err, int errnum, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* "out of memory", without allocating. */
bool error_set_memory(Error *err);

/* Put `fmt` and ": " before the message: only where that tells something new. */
bool error_context(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Attach a hint: a full sentence. */
bool error_hint(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/*
 * They return false in the eyes of compilers and analysers too, who see only one file at a time:
 * "return error_set(...)" is a failure, and no path goes on behind it.
 */
static inline bool
error_false(bool result)
{
    (void)result;
    return false;
}

#define error_set(...)        error_false(error_set(__VA_ARGS__))
#define error_set_errno(...)  error_false(error_set_errno(__VA_ARGS__))
#define error_set_memory(err) error_false(error_set_memory(err))
#define error_context(...)    error_false(error_context(__VA_ARGS__))
#define error_hint(...)       error_false(error_hint(__VA_ARGS__))

/* Says at the call that a failure changes nothing: clean-up after an error that is kept already. */
static inline void
error_ignored(bool ok)
{
    (void)ok;
}

#endif
