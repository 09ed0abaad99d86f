/*
 * One directory at a time is read whole, closed, sorted and then worked on, so that neither the
 * order of the file system nor the depth of the tree (open descriptors) matters.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "verify/internal.h"

/* ---- PathSet ---- */

bool
path_set_add(PathSet *set, const char *path, Error *err)
{
    void *paths = set->paths;
    char *copy;

    if (!mem_grow(&paths, &set->capacity, set->count + 1, sizeof *set->paths, err))
        return false;
    set->paths = paths;
    copy = mem_strdup(path, err);
    if (copy == NULL)
        return false;
    set->paths[set->count++] = copy;
    return true;
}

static int
compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void
path_set_sort(PathSet *set)
{
    if (set->count > 0)
        qsort(set->paths, set->count, sizeof *set->paths, compare_paths);
}

/* Whether the first `len` characters of `path` are one of the set. */
static bool
path_set_has(const PathSet *set, const char *path, size_t len)
{
    size_t low = 0;
    size_t high = set->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strncmp(set->paths[middle], path, len);

        if (order == 0 && set->paths[middle][len] == '\0')
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle; /* greater, or longer than the prefix asked for */
    }
    return false;
}

bool
path_set_covers(const PathSet *set, const char *path)
{
    size_t len = 0;

    if (set->count == 0)
        return false;
    do {
        len += strcspn(path + len, "/");
        if (path_set_has(set, path, len))
            return true;
    } while (path[len++] != '\0');
    return false;
}

void
path_set_free(PathSet *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->paths[i]);
    free(set->paths);
    *set = PATH_SET_INIT;
}

/* ---- one directory ---- */

typedef struct Node {
    char *name;
    mode_t type; /* S_IFMT bits; 0: not known */
    uint64_t size;
    int errnum; /* why it is not known */
} Node;

typedef struct Level {
    Node *nodes;
    size_t count;
    size_t capacity;
} Level;

/* The walk's state; `path` holds "DIRECTORY/RELATIVE". */
typedef struct Walker {
    const TreeWalk *walk;
    Buf path;
    size_t root_len; /* where RELATIVE begins */
} Walker;

static const char *
walker_relative(const Walker *walker)
{
    return walker->path.len < walker->root_len ? ""
                                               : (const char *)walker->path.data + walker->root_len;
}

static bool
walker_enter(Walker *walker, const char *name, Error *err)
{
    return buf_printf(&walker->path, err, "/%s", name);
}

static void
walker_leave(Walker *walker, size_t len)
{
    walker->path.len = len;
    walker->path.data[len] = '\0';
}

static void
level_free(Level *level)
{
    for (size_t i = 0; i < level->count; i++)
        free(level->nodes[i].name);
    free(level->nodes);
}

static int
compare_nodes(const void *a, const void *b)
{
    return strcmp(((const Node *)a)->name, ((const Node *)b)->name);
}

/* Where PostgreSQL itself has links to directories outside: pg_wal and pg_tblspc/<name>. */
static bool
link_is_followed(const char *path)
{
    static const char tablespaces[] = "pg_tblspc/";
    size_t len = sizeof tablespaces - 1;

    if (strcmp(path, "pg_wal") == 0)
        return true;
    return strncmp(path, tablespaces, len) == 0 && strchr(path + len, '/') == NULL;
}

/* Type and size of the entry `name` of the open directory; `path` is relative to the root. */
static void
node_stat(Node *node, int dir_fd, const char *path)
{
    struct stat st;

    if (fstatat(dir_fd, node->name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        node->errnum = errno;
        return;
    }
    node->type = st.st_mode & S_IFMT;
    node->size = (uint64_t)st.st_size;
    if (node->type == S_IFLNK && link_is_followed(path)) {
        if (fstatat(dir_fd, node->name, &st, 0) != 0) {
            node->type = 0;
            node->errnum = errno;
        } else if (S_ISDIR(st.st_mode)) {
            node->type = S_IFDIR;
        }
    }
}

static bool
level_add(Walker *walker, Level *level, DIR *dir, const char *name, Error *err)
{
    size_t len = walker->path.len;
    void *nodes = level->nodes;
    Node node = {.name = NULL};

    if (!walker_enter(walker, name, err))
        return false;
    if (path_set_covers(walker->walk->ignore, walker_relative(walker))) {
        walker_leave(walker, len);
        return true;
    }
    if (!mem_grow(&nodes, &level->capacity, level->count + 1, sizeof *level->nodes, err))
        return false;
    level->nodes = nodes;
    node.name = mem_strdup(name, err);
    if (node.name == NULL)
        return false;
    node_stat(&node, dirfd(dir), walker_relative(walker));
    level->nodes[level->count++] = node;
    walker_leave(walker, len);
    return true;
}

typedef enum LevelResult { LEVEL_READ, LEVEL_NO_OPEN, LEVEL_NO_READ, LEVEL_FAILED } LevelResult;

/* All entries of the open directory; *ret_errnum says why not all. */
static bool
level_fill(Walker *walker, Level *level, DIR *dir, int *ret_errnum, Error *err)
{
    struct dirent *entry;

    while ((entry = dir_next(dir)) != NULL) {
        if (!level_add(walker, level, dir, entry->d_name, err))
            return false;
    }
    *ret_errnum = errno;
    return true;
}

/* The directory at walker->path, sorted. */
static LevelResult
level_read(Walker *walker, Level *level, int *ret_errnum, Error *err)
{
    DIR *dir = opendir(buf_text(&walker->path));
    bool ok;

    if (dir == NULL) {
        *ret_errnum = errno;
        return LEVEL_NO_OPEN;
    }
    ok = level_fill(walker, level, dir, ret_errnum, err);
    (void)closedir(dir);
    if (!ok)
        return LEVEL_FAILED;
    if (level->count > 0)
        qsort(level->nodes, level->count, sizeof *level->nodes, compare_nodes);
    return *ret_errnum == 0 ? LEVEL_READ : LEVEL_NO_READ;
}

/* ---- the walk ---- */

static TreeNext walk_directory(Walker *walker, Error *err);

static TreeNext
found(const Walker *walker, TreeWhat what, uint64_t size, int errnum, Error *err)
{
    TreeItem item = {.what = what, .path = walker_relative(walker), .size = size, .errnum = errnum};

    return walker->walk->found(walker->walk->ctx, &item, err);
}

static TreeNext
enter_directory(Walker *walker, Error *err)
{
    TreeNext next = found(walker, TREE_DIRECTORY, 0, 0, err);

    if (next == TREE_SKIP)
        return TREE_GO_ON;
    return next == TREE_GO_ON ? walk_directory(walker, err) : next;
}

static TreeNext
walk_node(Walker *walker, const Node *node, Error *err)
{
    size_t len = walker->path.len;
    TreeNext next;

    if (!walker_enter(walker, node->name, err))
        return TREE_FAILED;
    if (node->type == S_IFDIR)
        next = enter_directory(walker, err);
    else if (node->type == S_IFREG)
        next = found(walker, TREE_FILE, node->size, 0, err);
    else if (node->type == 0)
        next = found(walker, TREE_NO_STAT, 0, node->errnum, err);
    else
        next = found(walker, TREE_ODD, 0, 0, err);
    walker_leave(walker, len);
    return next;
}

static TreeNext
walk_nodes(Walker *walker, const Level *level, Error *err)
{
    TreeNext next = TREE_GO_ON;

    for (size_t i = 0; i < level->count && next == TREE_GO_ON; i++) {
        if (!stop_check(walker->walk->stop, err))
            return TREE_FAILED;
        next = walk_node(walker, &level->nodes[i], err);
    }
    return next;
}

/* A directory that cannot be looked into is something found, except the root itself. */
static TreeNext
found_unreadable(const Walker *walker, LevelResult result, int errnum, Error *err)
{
    const char *verb = result == LEVEL_NO_OPEN ? "open" : "read";

    if (walker->path.len < walker->root_len) {
        (void)error_set_errno(err, errnum, "could not %s directory \"%s\"", verb,
                              walker->walk->directory);
        return TREE_FAILED;
    }
    return found(walker, result == LEVEL_NO_OPEN ? TREE_NO_OPEN : TREE_NO_READ, 0, errnum, err);
}

static TreeNext
walk_directory(Walker *walker, Error *err)
{
    Level level = {.nodes = NULL};
    int errnum = 0;
    LevelResult result = level_read(walker, &level, &errnum, err);
    TreeNext next = TREE_GO_ON;

    if (result == LEVEL_FAILED)
        next = TREE_FAILED;
    else if (result != LEVEL_READ)
        next = found_unreadable(walker, result, errnum, err);
    if (next == TREE_GO_ON)
        next = walk_nodes(walker, &level, err);
    level_free(&level);
    return next;
}

bool
tree_walk(const TreeWalk *walk, Error *err)
{
    Walker walker = {.walk = walk, .path = BUF_INIT};
    TreeNext next = TREE_FAILED;

    if (buf_printf(&walker.path, err, "%s", walk->directory)) {
        walker.root_len = walker.path.len + 1;
        next = walk_directory(&walker, err);
    }
    buf_free(&walker.path);
    return next != TREE_FAILED;
}
