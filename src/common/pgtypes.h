/*
 * The field's own small types: LSN, timeline, system identifier.
 *
 * Text forms are PostgreSQL's: an LSN is "%X/%X" (documentation: pg_lsn), a timeline a decimal
 * number in messages and eight upper-case hex digits in file names.
 */
#ifndef PGSTOW_PGTYPES_H
#define PGSTOW_PGTYPES_H

#include <stdbool.h>
#include <stdint.h>

typedef uint64_t Lsn;
typedef uint32_t TimeLineID;
typedef uint32_t Oid;

#define LSN_INVALID ((Lsn)0)
#define LSN_MAX     UINT64_MAX

/* For printf: printf("at " LSN_FORMAT, LSN_ARGS(lsn)). */
#define LSN_FORMAT    "%X/%X"
#define LSN_ARGS(lsn) (uint32_t)((lsn) >> 32), (uint32_t)(lsn)

/* Strict: hex digits, one slash, hex digits, each at most eight, nothing else. */
bool lsn_parse(const char *text, Lsn *ret_lsn);

/* Strict unsigned decimal, no sign, no blanks, no overflow. */
bool u32_parse(const char *text, uint32_t *ret_value);
bool u64_parse(const char *text, uint64_t *ret_value);

#endif
