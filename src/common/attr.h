/*
 * Compiler attributes in one place.
 */
#ifndef PGSTOW_ATTR_H
#define PGSTOW_ATTR_H

#define MUST_USE               __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED                 __attribute__((unused))

#endif
