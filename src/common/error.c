#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Here they are defined; the header's macros are for those who call them. */
#undef error_set
#undef error_set_errno
#undef error_set_memory
#undef error_context
#undef error_hint

static void error_format(Error *err, ErrorCode code, const char *fmt, va_list args)
    PRINTF_LIKE(3, 0);

PRINTF_LIKE(3, 0)
static void
error_format(Error *err, ErrorCode code, const char *fmt, va_list args)
{
    err->code = code;
    err->sys_errno = 0;
    err->sqlstate[0] = '\0';
    err->hint[0] = '\0';
    (void)vsnprintf(err->message, sizeof err->message, fmt, args);
}

bool
error_set(Error *err, ErrorCode code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    error_format(err, code, fmt, args);
    va_end(args);
    return false;
}

bool
error_set_errno(Error *err, int errnum, const char *fmt, ...)
{
    va_list args;
    char reason[128];
    size_t used;

    va_start(args, fmt);
    error_format(err, ERR_SYSTEM, fmt, args);
    va_end(args);
    err->sys_errno = errnum;

    /* The GNU strerror_r may return a static string instead of filling the buffer. */
    const char *text = strerror_r(errnum, reason, sizeof reason);

    used = strlen(err->message);
    (void)snprintf(err->message + used, sizeof err->message - used, ": %s", text);
    return false;
}

bool
error_set_memory(Error *err)
{
    return error_set(err, ERR_MEMORY, "out of memory");
}

bool
error_context(Error *err, const char *fmt, ...)
{
    char old[sizeof err->message];
    va_list args;
    size_t used;

    memcpy(old, err->message, sizeof old);
    va_start(args, fmt);
    (void)vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);

    used = strlen(err->message);
    (void)snprintf(err->message + used, sizeof err->message - used, ": %s", old);
    return false;
}

bool
error_hint(Error *err, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(err->hint, sizeof err->hint, fmt, args);
    va_end(args);
    return false;
}
