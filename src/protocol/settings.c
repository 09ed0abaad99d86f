/*
 * SHOW: settings that decide how the server's files look. The server tells a size as a number and
 * the largest unit that fits.
 */
#include <string.h>

#include "protocol/internal.h"

#define PAGE_SIZE_MIN (1U << 10)
#define PAGE_SIZE_MAX (1U << 15)

/* Asks with `command`. The text of the answer lives as long as the result, which the caller clears;
 * NULL: there is none. */
static PGresult *
show(Conn *conn, const char *command, const char *what, const char **ret_text, Error *err)
{
    PGresult *result = NULL;
    bool ok;

    if (!conn_run(conn, command, PGRES_TUPLES_OK, &result, err))
        return NULL;
    if (result_one_row(result, 1, err))
        ok = field_text(result, 0, 0, what, ret_text, err);
    else
        ok = error_context(err, "could not fetch %s", what);
    if (ok)
        return result;
    PQclear(result);
    return NULL;
}

/* "16MB", in bytes. */
static bool
size_parse(const char *text, uint64_t *ret_size)
{
    static const struct {
        const char *unit;
        int shift;
    } units[] = {{"B", 0}, {"kB", 10}, {"MB", 20}, {"GB", 30}, {"TB", 40}};
    char digits[11];
    size_t len = strspn(text, "0123456789");
    uint32_t number;

    if (len >= sizeof digits)
        return false;
    memcpy(digits, text, len);
    digits[len] = '\0';
    if (!u32_parse(digits, &number))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text + len, units[i].unit) != 0)
            continue;
        if (number > UINT64_MAX >> units[i].shift)
            return false;
        *ret_size = (uint64_t)number << units[i].shift;
        return true;
    }
    return false;
}

static bool
is_power_of_two(uint64_t number)
{
    return number != 0 && (number & (number - 1)) == 0;
}

/* ---- WAL segments ---- */

static bool
segment_size_read(const char *text, uint32_t *ret_size, Error *err)
{
    uint64_t size;

    if (!size_parse(text, &size))
        return error_set(err, ERR_PROTOCOL, "WAL segment size could not be parsed: \"%s\"", text);
    if (size < 1U << 20 || size > 1U << 30 || !is_power_of_two(size))
        return error_set(err, ERR_PROTOCOL,
                         "WAL segment size must be a power of two between 1 MB and 1 GB, but the "
                         "remote server reported a value of %llu bytes",
                         (unsigned long long)size);
    *ret_size = (uint32_t)size;
    return true;
}

bool
repl_segment_size(Conn *conn, uint32_t *ret_size, Error *err)
{
    const char *text = NULL;
    PGresult *result = show(conn, "SHOW wal_segment_size", "WAL segment size", &text, err);
    bool ok = result != NULL && segment_size_read(text, ret_size, err);

    PQclear(result);
    return ok;
}

/* ---- the mode of the data directory ---- */

/* "0750": three or four octal digits. */
static bool
mode_parse(const char *text, unsigned *ret_mode)
{
    size_t len = strspn(text, "01234567");
    unsigned mode = 0;

    if (len < 3 || len > 4 || text[len] != '\0')
        return false;
    for (; *text != '\0'; text++)
        mode = mode << 3 | (unsigned)(*text - '0');
    *ret_mode = mode;
    return true;
}

static bool
group_access_read(const char *text, bool *ret_group, Error *err)
{
    const unsigned group_reads = 050;
    unsigned mode;

    if (!mode_parse(text, &mode))
        return error_set(err, ERR_PROTOCOL, "group access flag could not be parsed: %s", text);
    *ret_group = (mode & group_reads) == group_reads;
    return true;
}

bool
repl_group_access(Conn *conn, bool *ret_group, Error *err)
{
    const char *text = NULL;
    PGresult *result;
    bool ok;

    if (!conn->features.group_access) {
        *ret_group = false;
        return true;
    }
    result = show(conn, "SHOW data_directory_mode", "group access flag", &text, err);
    ok = result != NULL && group_access_read(text, ret_group, err);
    PQclear(result);
    return ok;
}

/* ---- pages ---- */

/* "on" is the only value that promises a checksum on every page. */
static bool
checksums_show(Conn *conn, PageLayout *layout, Error *err)
{
    const char *text = NULL;
    PGresult *result = show(conn, "SHOW data_checksums", "data_checksums setting", &text, err);

    if (result == NULL)
        return false;
    layout->checksums = strcmp(text, "on") == 0;
    PQclear(result);
    return true;
}

static bool
page_size_read(const char *text, PageLayout *layout, Error *err)
{
    if (!u32_parse(text, &layout->page_size))
        return error_set(err, ERR_PROTOCOL, "block size could not be parsed: \"%s\"", text);
    if (layout->page_size < PAGE_SIZE_MIN || layout->page_size > PAGE_SIZE_MAX ||
        !is_power_of_two(layout->page_size))
        return error_set(err, ERR_PROTOCOL,
                         "block size must be a power of two between 1 kB and 32 kB, but the remote "
                         "server reported a value of %u bytes",
                         layout->page_size);
    return true;
}

static bool
page_size_show(Conn *conn, PageLayout *layout, Error *err)
{
    const char *text = NULL;
    PGresult *result = show(conn, "SHOW block_size", "block size", &text, err);
    bool ok = result != NULL && page_size_read(text, layout, err);

    PQclear(result);
    return ok;
}

static bool
segment_pages_read(const char *text, PageLayout *layout, Error *err)
{
    uint64_t size;

    if (!size_parse(text, &size))
        return error_set(err, ERR_PROTOCOL, "relation segment size could not be parsed: \"%s\"",
                         text);
    if (size == 0 || size % layout->page_size != 0 || size / layout->page_size > UINT32_MAX)
        return error_set(err, ERR_PROTOCOL,
                         "relation segment size must be a number of blocks of %u bytes, but the "
                         "remote server reported a value of %llu bytes",
                         layout->page_size, (unsigned long long)size);
    layout->segment_pages = (uint32_t)(size / layout->page_size);
    return true;
}

static bool
segment_pages_show(Conn *conn, PageLayout *layout, Error *err)
{
    const char *text = NULL;
    PGresult *result = show(conn, "SHOW segment_size", "relation segment size", &text, err);
    bool ok = result != NULL && segment_pages_read(text, layout, err);

    PQclear(result);
    return ok;
}

bool
repl_page_layout(Conn *conn, PageLayout *ret_layout, Error *err)
{
    PageLayout layout = {.checksums = false};

    if (!checksums_show(conn, &layout, err) || !page_size_show(conn, &layout, err) ||
        !segment_pages_show(conn, &layout, err))
        return false;
    *ret_layout = layout;
    return true;
}
