/*
 * What pg_checksums --check looks at (bin/pg_checksums/pg_checksums.c): all files in base and
 * global, and in the directories of this cluster's version in the tablespaces, but for those of a
 * short list. That they are relations is taken for granted, so what is no whole number of pages is
 * wrong.
 */
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/file.h"
#include "verify/internal.h"

#define STATE_SHUT_DOWN             1u
#define STATE_SHUT_DOWN_IN_RECOVERY 2u

typedef struct ClusterFile {
    const char *path;
    uint64_t size;
    uint32_t segment;
} ClusterFile;

typedef struct Cluster {
    Verifier *verifier;
    PageRules rules;
    Arena paths;
    ClusterFile *files;
    size_t count;
    size_t capacity;
} Cluster;

/* ---- what is looked at ---- */

static bool
has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static const char *
last_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* Of temporary files and directories, and of what other systems leave. */
static bool
is_passing(const char *name)
{
    return has_prefix(name, "pgsql_tmp") || strcmp(name, ".DS_Store") == 0;
}

static bool
is_no_relation(const char *name)
{
    return strcmp(name, "pg_control") == 0 || strcmp(name, "pg_filenode.map") == 0 ||
           has_prefix(name, "pg_internal.init") || strcmp(name, "PG_VERSION") == 0;
}

/* PG_<major>_<catalog version>: a tablespace may hold those of several clusters. */
static bool
is_version_directory(const Cluster *cluster, const char *name)
{
    const char *number = strrchr(name, '_');
    uint32_t version;

    return has_prefix(name, "PG_") && u32_parse(number + 1, &version) &&
           version == cluster->verifier->control.catalog_version;
}

static bool
is_entered(const Cluster *cluster, const char *path)
{
    static const char tablespaces[] = "pg_tblspc/";
    const char *below = path + sizeof tablespaces - 1;

    if (strchr(path, '/') == NULL)
        return strcmp(path, "base") == 0 || strcmp(path, "global") == 0 ||
               strcmp(path, "pg_tblspc") == 0;
    if (is_passing(last_name(path)))
        return false;
    if (!has_prefix(path, tablespaces) || strchr(below, '/') == NULL)
        return true;
    below = strchr(below, '/') + 1;
    return strchr(below, '/') != NULL || is_version_directory(cluster, below);
}

/* Whatever it is, it holds no pages. */
static bool
is_beside(const Cluster *cluster, const char *path)
{
    return strchr(path, '/') == NULL && !is_entered(cluster, path);
}

/* In a directory that is entered; not beside those directories. */
static bool
is_looked_at(const char *path)
{
    const char *name = last_name(path);
    const char *slash;

    if (name == path || is_passing(name) || is_no_relation(name))
        return false;
    if (!has_prefix(path, "pg_tblspc/"))
        return true;
    slash = strchr(path + strlen("pg_tblspc/"), '/');
    return slash != NULL && strchr(slash + 1, '/') != NULL;
}

/* The number behind the first dot, which is not 0; 0 when there is no dot. */
static bool
parse_segment(const char *path, uint32_t *ret_segment)
{
    const char *dot = strchr(last_name(path), '.');

    *ret_segment = 0;
    return dot == NULL || (u32_parse(dot + 1, ret_segment) && *ret_segment != 0);
}

/* ---- the list ---- */

static bool
report_name(Cluster *cluster, const TreeItem *item, Error *err)
{
    const Problem problem = {.kind = PROBLEM_FILE_TYPE, .path = item->path};

    return report(&cluster->verifier->reporter, &problem, err,
                  "invalid segment number in file name \"%s/%s\"",
                  cluster->verifier->config->directory, item->path);
}

static bool
report_size(Cluster *cluster, const TreeItem *item, Error *err)
{
    const uint32_t page_size = cluster->rules.page_size;
    const uint64_t pages = item->size / page_size;
    const Problem problem = {.kind = PROBLEM_SIZE,
                             .path = item->path,
                             .expected = (pages + 1) * page_size,
                             .found = item->size};

    return item->size % page_size == 0 ||
           report(&cluster->verifier->reporter, &problem, err,
                  "could not read block %llu in file \"%s/%s\": read %llu of %u",
                  (unsigned long long)pages, cluster->verifier->config->directory, item->path,
                  (unsigned long long)(item->size % page_size), page_size);
}

static bool
add_file(Cluster *cluster, const TreeItem *item, uint32_t segment, Error *err)
{
    void *files = cluster->files;
    const char *path = arena_text(&cluster->paths, item->path, strlen(item->path), err);

    if (path == NULL ||
        !mem_grow(&files, &cluster->capacity, cluster->count + 1, sizeof *cluster->files, err))
        return false;
    cluster->files = files;
    cluster->files[cluster->count++] =
        (ClusterFile){.path = path, .size = item->size, .segment = segment};
    return true;
}

static bool
take_file(Cluster *cluster, const TreeItem *item, Error *err)
{
    uint32_t segment;

    if (!is_looked_at(item->path))
        return true;
    if (!parse_segment(item->path, &segment))
        return report_name(cluster, item, err);
    return report_size(cluster, item, err) && add_file(cluster, item, segment, err);
}

static TreeNext
cluster_found(void *ctx, const TreeItem *item, Error *err)
{
    Cluster *cluster = ctx;
    bool ok;

    if (item->what == TREE_DIRECTORY)
        return is_entered(cluster, item->path) ? TREE_GO_ON : TREE_SKIP;
    if (item->what == TREE_FILE)
        ok = take_file(cluster, item, err);
    else
        ok = is_beside(cluster, item->path) ||
             report_unknown(&cluster->verifier->reporter, item, err);
    if (!ok)
        return TREE_FAILED;
    return cluster->verifier->reporter.enough ? TREE_ENOUGH : TREE_GO_ON;
}

/* ---- the pages ---- */

static bool
cluster_file(const void *ctx, size_t number, ContentFile *ret_file)
{
    const ClusterFile *file = &((const Cluster *)ctx)->files[number];

    *ret_file = (ContentFile){.path = file->path, .size = file->size, .segment = file->segment};
    return true;
}

static bool
report_page(Cluster *cluster, const ContentFile *file, const BadPage *page, Error *err)
{
    Reporter *reporter = &cluster->verifier->reporter;
    const Problem problem = {.kind = PROBLEM_PAGE,
                             .path = file->path,
                             .block = page->block,
                             .expected = page->expected,
                             .found = page->found};

    return reporter->enough ||
           report(reporter, &problem, err,
                  "checksum verification failed in file \"%s/%s\", block %u: calculated checksum "
                  "%X but block contains %X",
                  cluster->verifier->config->directory, file->path,
                  page->block - file->segment * cluster->rules.segment_pages, page->expected,
                  page->found);
}

static bool
report_rest(Cluster *cluster, const ContentFile *file, uint64_t count, Error *err)
{
    Reporter *reporter = &cluster->verifier->reporter;
    const Problem problem = {.kind = PROBLEM_PAGE, .path = file->path, .block = PROBLEM_WHOLE_FILE};

    return reporter->enough ||
           report(reporter, &problem, err,
                  "checksum verification failed in file \"%s/%s\" for %llu more blocks",
                  cluster->verifier->config->directory, file->path, (unsigned long long)count);
}

static bool
cluster_report(void *ctx, const ContentFile *file, const FileFinding *finding, Error *err)
{
    Cluster *cluster = ctx;
    const uint64_t bad = finding->pages.tally.bad;

    if (!report_finding(&cluster->verifier->reporter, file, finding, err))
        return false;
    for (uint64_t i = 0; i < bad && i < PAGE_REPORTS_PER_FILE; i++) {
        if (!report_page(cluster, file, &finding->pages.first[i], err))
            return false;
    }
    return bad <= PAGE_REPORTS_PER_FILE ||
           report_rest(cluster, file, bad - PAGE_REPORTS_PER_FILE, err);
}

/* ---- pg_control ---- */

static bool
check_state(const ControlData *control, PageRules *ret_rules, Error *err)
{
    if (control->state != STATE_SHUT_DOWN && control->state != STATE_SHUT_DOWN_IN_RECOVERY)
        return error_set(err, ERR_UNSUPPORTED, "cluster must be shut down");
    if (control->data_checksum_version == 0)
        return error_set(err, ERR_UNSUPPORTED, "data checksums are not enabled in cluster");
    if (!control_page_rules(control, LSN_MAX, ret_rules))
        return error_set(err, ERR_UNSUPPORTED,
                         "database cluster is not compatible: block size %u, data checksum "
                         "version %u",
                         control->block_size, control->data_checksum_version);
    return true;
}

static bool
load_control(const char *path, ControlData *ret_control, Error *err)
{
    uint8_t bytes[CONTROL_FILE_SIZE];
    Span content = {.data = bytes};

    if (!control_read(path, bytes, &content.len, err))
        return false;
    return control_parse(content, ret_control, err) || error_context(err, "\"%s\"", path);
}

static bool
learn_rules(Cluster *cluster, Error *err)
{
    Verifier *verifier = cluster->verifier;
    char *path = path_join(verifier->config->directory, CONTROL_PATH, err);
    bool ok = path != NULL && load_control(path, &verifier->control, err);

    free(path);
    return ok && check_state(&verifier->control, &cluster->rules, err);
}

/* ---- all of it ---- */

static bool
check_cluster(Cluster *cluster, Error *err)
{
    Verifier *verifier = cluster->verifier;
    const TreeWalk walk = {.directory = verifier->config->directory,
                           .ignore = &verifier->ignore,
                           .stop = verifier->config->stop,
                           .found = cluster_found,
                           .ctx = cluster};
    ContentList list = {
        .rules = &cluster->rules, .ctx = cluster, .file = cluster_file, .report = cluster_report};

    if (!learn_rules(cluster, err) || !tree_walk(&walk, err))
        return false;
    verifier->summary.has_pages = true;
    verifier->summary.page_size = cluster->rules.page_size;
    list.count = cluster->count;
    return verifier->reporter.enough || contents_check(verifier, &list, err);
}

bool
verify_pages(const VerifyConfig *config, uint64_t *ret_problems, Error *err)
{
    Verifier verifier = {.config = config, .reporter = REPORTER_INIT(&config->problems)};
    Cluster cluster = {.verifier = &verifier, .paths = ARENA_INIT};
    bool ok = check_cluster(&cluster, err);

    if (ok) {
        *ret_problems = verifier.reporter.count;
        if (config->summary != NULL)
            *config->summary = verifier.summary;
    }
    arena_free(&cluster.paths);
    free(cluster.files);
    verifier_free(&verifier);
    return ok;
}
