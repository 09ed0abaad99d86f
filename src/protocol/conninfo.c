/*
 * Connection strings: ours, and the one that a standby reaches its primary with.
 */
#include <string.h>

#include "protocol/internal.h"

bool
conninfo_parse(const char *conninfo, PQconninfoOption **ret_settings, Error *err)
{
    char *why = NULL;
    PQconninfoOption *settings = PQconninfoParse(conninfo, &why);

    if (settings != NULL) {
        *ret_settings = settings;
        return true;
    }
    if (why == NULL)
        return error_set_memory(err);
    (void)error_set_libpq(err, ERR_USAGE, why);
    PQfreemem(why);
    return false;
}

/* ---- writing ---- */

/* Other values may mean nothing special either, but these are sure to. */
static bool
value_is_plain(const char *value)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";

    return value[strspn(value, plain)] == '\0';
}

/* 'value', with a backslash before each quote and backslash. */
static bool
value_quote(Buf *conninfo, const char *value, Error *err)
{
    if (!buf_printf(conninfo, err, "'"))
        return false;
    for (;;) {
        size_t len = strcspn(value, "'\\");

        if (!buf_append(conninfo, value, len, err))
            return false;
        if (value[len] == '\0')
            return buf_printf(conninfo, err, "'");
        if (!buf_printf(conninfo, err, "\\%c", value[len]))
            return false;
        value += len + 1;
    }
}

/* Nothing for a setting that has no value. */
static bool
setting_format(Buf *conninfo, const char *keyword, const char *value, Error *err)
{
    if (value == NULL || value[0] == '\0')
        return true;
    if (!buf_printf(conninfo, err, "%s%s=", conninfo->len == 0 ? "" : " ", keyword))
        return false;
    return value_is_plain(value) ? buf_printf(conninfo, err, "%s", value)
                                 : value_quote(conninfo, value, err);
}

/* What a walreceiver sets itself; the dbname is a matter of its own. */
static bool
setting_is_the_standbys(const char *keyword)
{
    return strcmp(keyword, "replication") == 0 || strcmp(keyword, "dbname") == 0 ||
           strcmp(keyword, "fallback_application_name") == 0;
}

/*
 * The standby runs the server's libpq, which may be older than ours and refuses the whole string
 * for one keyword that it does not know. What is not listed is older than all servers.
 */
static bool
setting_is_known_to(int major, const char *keyword)
{
    static const struct {
        const char *keyword;
        int since;
    } newer[] = {
        {"gssencmode", 12},
        {"tcp_user_timeout", 12},
        {"channel_binding", 13},
        {"ssl_max_protocol_version", 13},
        {"ssl_min_protocol_version", 13},
        {"sslpassword", 13},
        {"sslcrldir", 14},
        {"sslsni", 14},
        {"gssdelegation", 16},
        {"load_balance_hosts", 16},
        {"require_auth", 16},
        {"sslcertmode", 16},
        {"sslnegotiation", 17},
        {"max_protocol_version", 18},
        {"min_protocol_version", 18},
        {"oauth_client_id", 18},
        {"oauth_client_secret", 18},
        {"oauth_issuer", 18},
        {"oauth_scope", 18},
        {"scram_client_key", 18},
        {"scram_server_key", 18},
        {"sslkeylogfile", 18},
        {"servicefile", 19},
    };

    for (size_t i = 0; i < sizeof newer / sizeof newer[0]; i++) {
        if (strcmp(newer[i].keyword, keyword) == 0)
            return major >= newer[i].since;
    }
    return true;
}

bool
conninfo_format(const PQconninfoOption *settings, int major, const char *dbname, Buf *conninfo,
                Error *err)
{
    for (; settings->keyword != NULL; settings++) {
        if (!setting_is_the_standbys(settings->keyword) &&
            setting_is_known_to(major, settings->keyword) &&
            !setting_format(conninfo, settings->keyword, settings->val, err))
            return false;
    }
    return setting_format(conninfo, "dbname", dbname, err);
}

/* ---- what was named ---- */

/* The database that was named among `settings` (may be NULL); NULL: none was. */
static const char *
dbname_among(const PQconninfoOption *settings)
{
    for (; settings != NULL && settings->keyword != NULL; settings++) {
        if (strcmp(settings->keyword, "dbname") == 0 && settings->val != NULL &&
            settings->val[0] != '\0')
            return settings->val;
    }
    return NULL;
}

bool
conninfo_database(const ConnConfig *config, Buf *database, Error *err)
{
    PQconninfoOption *defaults = PQconndefaults();
    PQconninfoOption *given = NULL;
    bool ok = defaults != NULL || error_set_memory(err);

    ok = ok && (config->conninfo == NULL || conninfo_parse(config->conninfo, &given, err));
    if (ok) {
        const char *dbname = dbname_among(given);

        if (dbname == NULL)
            dbname = dbname_among(defaults);
        ok = dbname == NULL || buf_printf(database, err, "%s", dbname);
    }
    PQconninfoFree(given);
    PQconninfoFree(defaults);
    return ok;
}

/* ---- for a standby ---- */

/* The slot synchronization of a standby needs the database that was named. */
bool
conn_primary_conninfo(const Conn *conn, const ConnConfig *config, Buf *conninfo, Error *err)
{
    PQconninfoOption *settings = PQconninfo(conn->pg);
    Buf database = BUF_INIT;
    Buf text = BUF_INIT;
    bool ok = settings != NULL || error_set_memory(err);

    ok = ok && conninfo_database(config, &database, err) &&
         conninfo_format(settings, conn->features.major, buf_text(&database), &text, err) &&
         buf_append(conninfo, text.data, text.len, err);
    buf_free(&text);
    buf_free(&database);
    PQconninfoFree(settings);
    return ok;
}
