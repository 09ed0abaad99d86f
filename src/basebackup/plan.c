#include "basebackup/internal.h"

#include <string.h>

/* A feature by its stock message, and since which version there is it. */
static bool
refuse(const char *message, int since, const char *version_text, Error *err)
{
    (void)error_set(err, ERR_UNSUPPORTED, "%s", message);
    return error_hint(err, "The server's version is %s; this needs version %d or later.",
                      version_text, since);
}

static bool
check_features(const BackupOptions *options, const ServerFeatures *features,
               const char *version_text, Error *err)
{
    if (options->target != NULL && !features->backup_targets)
        return refuse("backup targets are not supported by this server version", 15, version_text,
                      err);
    if (options->server_compression != NULL && !features->compression)
        return refuse("server does not support server-side compression", 15, version_text, err);
    if (options->incremental != NULL && !features->wal_summaries)
        return refuse("server does not support incremental backup", 17, version_text, err);
    if (options->page_digests && !features->manifest)
        return refuse("server does not make the manifest without which page digests are of no use",
                      13, version_text, err);
    if (options->target != NULL && options->write_recovery)
        return error_set(err, ERR_USAGE,
                         "recovery configuration cannot be written when a backup target is used");
    return true;
}

/* How the server will send archives. A method that we do not know it will refuse, or else send
 * archives whose names we do not expect. */
static CompressionMethod
arriving_method(const BackupOptions *options)
{
    CompressionMethod method = COMPRESSION_NONE;

    if (options->server_compression != NULL)
        (void)compression_method_parse(options->server_compression, &method);
    return method;
}

/*
 * What the server compressed and we have to write anew is compressed again in the same way, as far
 * as we understand what was asked of the server.
 */
static Compression
leaving_compression(const BackupOptions *options, const Plan *plan)
{
    Compression compression = {.method = COMPRESSION_NONE};
    Error ignored = ERROR_INIT;

    if (plan->format != FORMAT_TAR || plan->to_server)
        return compression;
    if (plan->arriving == COMPRESSION_NONE)
        return options->compression;
    if (plan->rewrite && !compression_parse(plan->arriving, options->server_compression_detail,
                                            &compression, &ignored))
        error_ignored(compression_parse(plan->arriving, NULL, &compression, &ignored));
    return compression;
}

bool
plan_make(const BackupOptions *options, const ServerFeatures *features, const char *version_text,
          Plan *ret_plan, Error *err)
{
    Plan plan = {.format = options->format, .to_server = options->target != NULL};

    if (!check_features(options, features, version_text, err))
        return false;
    plan.to_stdout =
        !plan.to_server && plan.format == FORMAT_TAR && strcmp(options->directory, "-") == 0;
    plan.manifest = features->manifest ? options->manifest : MANIFEST_NO;
    plan.in_flight = plan.manifest != MANIFEST_NO && !plan.to_server;
    plan.in_stream = plan.in_flight && plan.to_stdout;
    plan.arriving = arriving_method(options);
    if (plan.in_stream && plan.arriving != COMPRESSION_NONE) {
        (void)error_set(err, ERR_USAGE, "cannot inject manifest into a compressed tar file");
        return error_hint(err, "Use client-side compression, send the output to a directory "
                               "rather than standard output, or use --no-manifest.");
    }
    plan.rewrite = plan.format == FORMAT_TAR && (plan.in_stream || options->write_recovery);
    plan.leaving = leaving_compression(options, &plan);
    /* Servers before 11 do not check their pages: one that was being written while they read it
     * would look damaged, and recovery mends it. */
    plan.page_check =
        features->verify_checksums && !options->no_verify_checksums && !plan.to_server;
    plan.page_digests = options->page_digests && plan.in_flight && !plan.to_stdout;
    *ret_plan = plan;
    return true;
}

bool
plan_check_tablespaces(const Plan *plan, size_t count, Error *err)
{
    if (plan->to_stdout && count > 1)
        return error_set(err, ERR_USAGE,
                         "can only write single tablespace to stdout, database has %zu", count);
    return true;
}
