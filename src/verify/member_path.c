#include "verify/internal.h"

bool
member_path(Oid tablespace, const Entry *entry, Buf *path, Error *err)
{
    buf_clear(path);
    if (tablespace != 0 && !buf_printf(path, err, "pg_tblspc/%u/", tablespace))
        return false;
    return buf_printf(path, err, "%s", entry->path);
}
