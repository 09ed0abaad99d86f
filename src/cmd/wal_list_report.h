/*
 * What "pgstow wal list" says of an archive, in words and as JSON (docs/formats.md). Pure, but for
 * the commits, which are given.
 */
#ifndef PGSTOW_WAL_LIST_REPORT_H
#define PGSTOW_WAL_LIST_REPORT_H

#include "archive/archive.h"
#include "common/bytes.h"

#define WAL_LIST_JSON_VERSION 1

/* `commits`: one for each timeline of the archive; NULL: nobody has asked. Appended to `text`. */
bool wal_list_text(const Inventory *archive, const ArchiveCommits *commits, Buf *text,
                   Error *err) MUST_USE;
bool wal_list_json(const Inventory *archive, const ArchiveCommits *commits, Buf *text,
                   Error *err) MUST_USE;

#endif
