/* Loaded before libc (LD_PRELOAD): writes down, in order, all that a process does to some files.
 *
 * Recorded are calls on RECORD_IN and what is in it, once they have succeeded, to the end of the file
 * RECORD_TO. What ``power_cut.read`` cannot replay is recorded as such, so that nothing is missed in
 * silence: a shared mapping that can be written to, links, preallocation, copies within the kernel.
 * A record is a struct head, then the first path, the second path, and the bytes written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

struct head {
    int64_t kind, inode, at, path, second, data; /* data, path and second: lengths in bytes */
};

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static int here(const char *path)
{
    const char *in = getenv("RECORD_IN");
    return in && !strncmp(path, in, strlen(in)) && (!path[strlen(in)] || path[strlen(in)] == '/');
}

/* The absolute path of a name that may be relative to a folder. */
static void whole(int folder, const char *name, char path[2 * PATH_MAX])
{
    char link[64], base[PATH_MAX] = "";
    if (name[0] == '/') {
        snprintf(path, 2 * PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base))
            abort();
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, base, sizeof base - 1);
        base[size < 0 ? 0 : size] = 0;
    }
    snprintf(path, 2 * PATH_MAX, "%s/%s", base, name);
}

static int here_fd(int fd, char path[2 * PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, 2 * PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return here(path);
}

static int64_t inode_of(int fd)
{
    struct stat status;
    return fstat(fd, &status) ? 0 : (int64_t)status.st_ino;
}

static void note(char kind, int64_t inode, int64_t at, const char *path, const char *second,
                 const void *data, size_t size)
{
    static int log = -1;
    int before = errno;
    if (log < 0)
        log = REAL(open64)(getenv("RECORD_TO"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct head head = {kind, inode, at, strlen(path), strlen(second), size};
    struct iovec parts[] = {{&head, sizeof head},
                            {(void *)path, head.path},
                            {(void *)second, head.second},
                            {(void *)data, size}};
    if (REAL(writev)(log, parts, 4) != (ssize_t)(sizeof head + head.path + head.second + size))
        abort();
    errno = before;
}

#define ALONE(statement) \
    do { \
        pthread_mutex_lock(&one_at_a_time); \
        statement; \
        pthread_mutex_unlock(&one_at_a_time); \
    } while (0)

static int open_at(int folder, const char *name, int flags, mode_t mode)
{
    char path[2 * PATH_MAX];
    struct stat status;
    int fd, existed;
    whole(folder, name, path);
    if (!here(path) || !(flags & (O_CREAT | O_TRUNC)))
        return REAL(openat64)(folder, name, flags, mode);
    pthread_mutex_lock(&one_at_a_time);
    existed = !fstatat(folder, name, &status, 0);
    fd = REAL(openat64)(folder, name, flags, mode);
    if (fd >= 0 && !existed)
        note('C', inode_of(fd), 0, path, "", "", 0);
    else if (fd >= 0 && (flags & O_TRUNC) && status.st_size)
        note('T', inode_of(fd), 0, path, "", "", 0);
    pthread_mutex_unlock(&one_at_a_time);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (__OPEN_NEEDS_MODE(flags)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return open_at(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return open_at(folder, name, flags, mode); }

ssize_t write(int fd, const void *data, size_t size)
{
    char path[2 * PATH_MAX];
    struct stat status;
    if (!here_fd(fd, path))
        return REAL(write)(fd, data, size);
    pthread_mutex_lock(&one_at_a_time);
    int64_t at = lseek(fd, 0, SEEK_CUR);
    if (fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &status))
        at = status.st_size;
    ssize_t done = REAL(write)(fd, data, size);
    if (done > 0)
        note('W', inode_of(fd), at, path, "", data, done);
    pthread_mutex_unlock(&one_at_a_time);
    return done;
}

static ssize_t write_at(int fd, const void *data, size_t size, off64_t at)
{
    char path[2 * PATH_MAX];
    if (!here_fd(fd, path))
        return REAL(pwrite64)(fd, data, size, at);
    ssize_t done;
    ALONE(
        done = REAL(pwrite64)(fd, data, size, at);
        if (done > 0)
            note('W', inode_of(fd), at, path, "", data, done));
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return write_at(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return write_at(fd, data, size, at); }

#define ON_FILE(name, parameters, arguments, kind, at) \
    int name parameters \
    { \
        char path[2 * PATH_MAX]; \
        int failed; \
        if (!here_fd(fd, path)) \
            return REAL(name) arguments; \
        ALONE( \
            failed = REAL(name) arguments; \
            if (!failed) \
                note(kind, inode_of(fd), at, path, "", "", 0)); \
        return failed; \
    }

ON_FILE(fsync, (int fd), (fd), 'F', 0)
ON_FILE(fdatasync, (int fd), (fd), 'F', 0)
ON_FILE(ftruncate, (int fd, off_t size), (fd, size), 'T', size)
ON_FILE(ftruncate64, (int fd, off64_t size), (fd, size), 'T', size)
ON_FILE(fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), '?', 0)
ON_FILE(fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size), '?', 0)
ON_FILE(posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size), '?', 0)
ON_FILE(posix_fallocate64, (int fd, off64_t at, off64_t size), (fd, at, size), '?', 0)

/* A change of names; folder and name say where the first is. */
#define ON_NAME(name, parameters, arguments, kind, folder, first, second_folder, second) \
    int name parameters \
    { \
        char path[2 * PATH_MAX], other[2 * PATH_MAX] = ""; \
        int failed; \
        whole(folder, first, path); \
        if (*(second)) \
            whole(second_folder, second, other); \
        if (!here(path) && !here(other)) \
            return REAL(name) arguments; \
        ALONE( \
            failed = REAL(name) arguments; \
            if (!failed) \
                note(kind, 0, 0, path, other, "", 0)); \
        return failed; \
    }

ON_NAME(rename, (const char *from, const char *to), (from, to), 'R', AT_FDCWD, from, AT_FDCWD, to)
ON_NAME(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), 'R', a, from, b, to)
ON_NAME(renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags), flags ? '?' : 'R', a, from, b, to)
ON_NAME(unlink, (const char *name), (name), 'U', AT_FDCWD, name, AT_FDCWD, "")
ON_NAME(unlinkat, (int at, const char *name, int flags), (at, name, flags), 'U', at, name, AT_FDCWD, "")
ON_NAME(rmdir, (const char *name), (name), 'U', AT_FDCWD, name, AT_FDCWD, "")
ON_NAME(mkdir, (const char *name, mode_t mode), (name, mode), 'D', AT_FDCWD, name, AT_FDCWD, "")
ON_NAME(mkdirat, (int at, const char *name, mode_t mode), (at, name, mode), 'D', at, name, AT_FDCWD, "")
ON_NAME(link, (const char *from, const char *to), (from, to), '?', AT_FDCWD, from, AT_FDCWD, to)
ON_NAME(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), '?', a, from, b, to)
ON_NAME(symlink, (const char *from, const char *to), (from, to), '?', AT_FDCWD, from, AT_FDCWD, to)
ON_NAME(truncate, (const char *name, off_t size), (name, size), '?', AT_FDCWD, name, AT_FDCWD, "")
ON_NAME(truncate64, (const char *name, off64_t size), (name, size), '?', AT_FDCWD, name, AT_FDCWD, "")

static void note_unknown(int fd)
{
    char path[2 * PATH_MAX];
    if (here_fd(fd, path))
        ALONE(note('?', inode_of(fd), 0, path, "", "", 0));
}

ssize_t writev(int fd, const struct iovec *parts, int count) { note_unknown(fd); return REAL(writev)(fd, parts, count); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { note_unknown(fd); return REAL(pwritev)(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { note_unknown(fd); return REAL(pwritev64)(fd, parts, count, at); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) { note_unknown(to); return REAL(copy_file_range)(from, a, to, b, size, flags); }

static void *map(void *(*real)(void *, size_t, int, int, int, off64_t), void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED))
        note_unknown(fd);
    return real(at, size, protection, flags, fd, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) { return map(REAL(mmap), at, size, protection, flags, fd, offset); }
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) { return map(REAL(mmap64), at, size, protection, flags, fd, offset); }
