/* Loaded before libc (LD_PRELOAD): makes the n-th call that changes an index go wrong.
 *
 * Counted are write, pwrite, fsync, fdatasync, ftruncate, rename and unlink on files whose path
 * holds FAULT_IN; with FAULT_ON=read instead read and pread. At call number FAULT_AT the process is
 * killed (FAULT_HOW=kill), or that call and, unless FAULT_ONCE is set, every later one fails with
 * the error number FAULT_HOW. A killed write is done by half first, as a real one may be. At the
 * end the number of calls is written to FAULT_COUNT, if that is set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long calls;

static int here(int reading, const char *path)
{
    const char *in = getenv("FAULT_IN"), *on = getenv("FAULT_ON");
    return in && strstr(path, in) && reading == (on && !strcmp(on, "read"));
}

static int here_fd(int reading, int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return here(reading, path);
}

/* Whether this call is to fail; half is called before the process is killed. */
static int fails(void)
{
    const char *at = getenv("FAULT_AT");
    calls++;
    if (!at || calls < atol(at) || (calls > atol(at) && getenv("FAULT_ONCE")))
        return 0;
    errno = atoi(getenv("FAULT_HOW"));
    return 1;
}

static int kills(void) { return !strcmp(getenv("FAULT_HOW"), "kill"); }

__attribute__((destructor)) static void tell(void)
{
    const char *count = getenv("FAULT_COUNT");
    FILE *file = count && calls ? fopen(count, "w") : NULL;
    if (file) {
        fprintf(file, "%ld", calls);
        fclose(file);
    }
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (here_fd(0, fd) && fails()) {
        if (!kills())
            return -1;
        REAL(write)(fd, data, size / 2);
        raise(SIGKILL);
    }
    return REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    if (here_fd(0, fd) && fails()) {
        if (!kills())
            return -1;
        REAL(pwrite64)(fd, data, size / 2, at);
        raise(SIGKILL);
    }
    return REAL(pwrite64)(fd, data, size, at);
}

ssize_t read(int fd, void *data, size_t size)
{
    return here_fd(1, fd) && fails() ? -1 : REAL(read)(fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
    return here_fd(1, fd) && fails() ? -1 : REAL(pread64)(fd, data, size, at);
}

#define CHANGE(name, parameters, arguments, where) \
    int name parameters \
    { \
        if ((where) && fails()) { \
            if (!kills()) \
                return -1; \
            raise(SIGKILL); \
        } \
        return REAL(name) arguments; \
    }

CHANGE(fsync, (int fd), (fd), here_fd(0, fd))
CHANGE(fdatasync, (int fd), (fd), here_fd(0, fd))
CHANGE(ftruncate64, (int fd, off64_t size), (fd, size), here_fd(0, fd))
CHANGE(rename, (const char *from, const char *to), (from, to), here(0, to))
CHANGE(unlink, (const char *path), (path), here(0, path))
