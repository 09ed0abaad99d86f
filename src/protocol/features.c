#include "protocol/internal.h"

bool
server_features(int version, const char *version_text, ServerFeatures *ret_features, Error *err)
{
    int major = version / 10000;

    if (major < SERVER_MAJOR_MIN || major > SERVER_MAJOR_MAX) {
        (void)error_set(err, ERR_UNSUPPORTED, "incompatible server version %s", version_text);
        return error_hint(err, "Servers of the major versions %d to %d are supported.",
                          SERVER_MAJOR_MIN, SERVER_MAJOR_MAX);
    }
    *ret_features = (ServerFeatures){
        .version = version,
        .major = major,
        .command_options = major >= 15,
        .typed_copy = major >= 15,
        .group_access = major >= 11,
        .verify_checksums = major >= 11,
        .manifest = major >= 13,
        .manifest_system_id = major >= 17,
        .read_slot = major >= 15,
        .drop_slot_wait = major >= 11,
        .wal_summaries = major >= 17,
        .backup_targets = major >= 15,
        .compression = major >= 15,
        .recovery_settings = major >= 12,
    };
    return true;
}

bool
server_too_old(const ServerFeatures *features, int since, const char *message, Error *err)
{
    (void)error_set(err, ERR_UNSUPPORTED, "%s", message);
    return error_hint(err, "The server is of version %d.%d; this needs version %d or later.",
                      features->major, features->version % 10000, since);
}
