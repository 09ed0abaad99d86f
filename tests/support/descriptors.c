#include "support/descriptors.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

size_t
descriptors_open(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;

    if (dir == NULL) {
        perror("test support: /proc/self/fd");
        abort();
    }
    while (readdir(dir) != NULL)
        count++;
    (void)closedir(dir);
    return count;
}

const char *
descriptor_path(int fd, char *path, size_t size)
{
    char link[64];
    ssize_t len;

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, size - 1);
    path[len < 0 ? 0 : len] = '\0';
    return path;
}
