/*
 * What the program says on standard error, in the stock tools' shape: "PROGRAM: error: text", with
 * "detail:" and "hint:" lines; coloured as PG_COLOR and PG_COLORS say (documentation: "Color
 * Support"). Only src/cmd prints.
 */
#ifndef PGSTOW_LOG_H
#define PGSTOW_LOG_H

#include "common/error.h"

/* Before anything is said. `progname` is borrowed for ever. */
void log_init(const char *progname);
const char *log_progname(void);

void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warning(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_hint(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* An Error with its hint. */
void log_failure(const Error *err);

/* "Try "PROGRAM --help" for more information." */
void log_help_hint(void);

#endif
