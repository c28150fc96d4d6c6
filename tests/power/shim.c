/* Records what a process does to the files of one folder, so that a power cut can be replayed at any instant of the run.
 *
 * Loaded with LD_PRELOAD. Environment:
 *   POWER_SHIM_FOLDER   the folder, as realpath prints it; files ending in "-shm" (shared memory, rebuilt at open) are ignored
 *   POWER_SHIM_LOG      where records are appended
 *   POWER_SHIM_CONTROL  a file whose first two bytes are read before each operation: faults (below), delay of a sync in ms
 *
 * Rules that make the log trustworthy:
 *   - Changes are made and logged under one mutex: the order of the log is the order in the page cache.
 *   - A change is stamped after it returned; what a client saw later was therefore logged with an earlier time.
 *   - A sync is logged when it is called and again when it has returned. It covers only what was logged before the call.
 *   - A record is appended by one system call, so that several processes may share a log.
 * Not seen: stdio (fopen), writable memory maps, io_uring. Disk::assert_complete finds out whether any of these was used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum op { CREATE = 1, WRITE, TRUNCATE, UNLINK, RENAME, SYNC_BEGIN, SYNC_END, SYNC_FAILED };
enum fault { FULL = 1, SYNC_FAILS = 2, SYNC_IGNORED = 4 };

/* Mirrored by tests/src/power/log.rs. */
struct header {
    uint32_t magic, op;
    uint64_t ns, inode, offset;
    uint32_t name_length, data_length;
};
#define MAGIC 0x4c565057u

#define MAX_FD 65536
#define MAX_PARTS 1024
/* What is known of a descriptor: UNKNOWN until asked, else one of these, else the inode of a watched file. */
enum { UNKNOWN = 0, ELSEWHERE = 1, FOLDER = 2 };
static _Atomic uint64_t known[MAX_FD];

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static int log_fd = -1, control_fd = -1;
static _Atomic uint64_t syncs;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("POWER_SHIM_FOLDER"), *log = getenv("POWER_SHIM_LOG"), *control = getenv("POWER_SHIM_CONTROL");
    if (!path || !log || !control || strlen(path) >= sizeof folder) return;
    int opened = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC);
    /* High numbers keep the low ones as the program expects them. */
    log_fd = fcntl(opened, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, opened);
    opened = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    control_fd = fcntl(opened, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, opened);
    if (log_fd < 0 || control_fd < 0) abort();
    strcpy(folder, path);
    folder_length = strlen(folder);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void control(unsigned char bytes[2]) {
    bytes[0] = bytes[1] = 0;
    if (syscall(SYS_pread64, control_fd, bytes, 2, 0) < 0) abort();
}

/* The part of a canonical path below the folder ("" for the folder itself), or NULL. */
static const char *below(const char *path) {
    if (log_fd < 0 || strncmp(path, folder, folder_length) != 0) return NULL;
    const char *name = path + folder_length;
    if (*name != '\0' && *name != '/') return NULL;
    size_t length = strlen(name);
    if (length >= 4 && strcmp(name + length - 4, "-shm") == 0) return NULL;
    return *name == '/' ? name + 1 : name;
}

/* The name below the folder that a path argument means, resolved into `full`, or NULL. The last part is not followed. */
static const char *name_of(int dir, const char *path, char full[PATH_MAX]) {
    char joined[PATH_MAX + 32], parent[PATH_MAX + 32];
    if (log_fd < 0 || !path || strlen(path) >= PATH_MAX) return NULL;
    int saved = errno;
    joined[0] = '\0';
    if (path[0] != '/') {
        if (dir == AT_FDCWD) strcpy(joined, "./");
        else { /* "/proc/self/fd/N/" without printf, which may allocate */
            char digits[12]; int n = sizeof digits - 1; digits[n] = '\0';
            for (int fd = dir; n > 0 && (fd > 0 || !digits[n]); fd /= 10) digits[--n] = '0' + fd % 10;
            strcpy(joined, "/proc/self/fd/"); strcat(joined, digits + n); strcat(joined, "/");
        }
    }
    strcat(joined, path);
    char *last = strrchr(joined, '/');
    memcpy(parent, joined, last - joined + 1);
    parent[last - joined + 1] = '\0';
    const char *result = NULL;
    if (realpath(parent, full) && strlen(full) + strlen(last) < PATH_MAX) { strcat(full, last); result = below(full); }
    errno = saved;
    return result;
}

/* Where a descriptor points: the current path below the folder, or NULL. */
static const char *name_of_fd(int fd, char full[PATH_MAX]) {
    char link[32] = "/proc/self/fd/", digits[12];
    int n = sizeof digits - 1; digits[n] = '\0';
    do { digits[--n] = '0' + fd % 10; fd /= 10; } while (fd > 0);
    strcat(link, digits + n);
    ssize_t length = readlink(link, full, PATH_MAX - 1);
    if (length < 0) return NULL;
    full[length] = '\0';
    return below(full);
}

static uint64_t look_up(int fd) {
    if (log_fd < 0 || fd < 0 || fd >= MAX_FD) return ELSEWHERE;
    uint64_t result = known[fd];
    if (result != UNKNOWN) return result;
    int saved = errno;
    struct stat status;
    char full[PATH_MAX];
    result = ELSEWHERE;
    if (fstat(fd, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) && name_of_fd(fd, full))
        result = S_ISDIR(status.st_mode) ? (uint64_t)FOLDER : (uint64_t)status.st_ino;
    known[fd] = result;
    errno = saved;
    return result;
}

static int watched(int fd) { return look_up(fd) > FOLDER; }
static void forget(int fd) { if (fd >= 0 && fd < MAX_FD) known[fd] = UNKNOWN; }

/* Appends a record; `parts` hold `length` bytes of data or more. */
static void record(enum op op, uint64_t inode, uint64_t offset, const char *name, const struct iovec *parts, int count, size_t length) {
    int saved = errno;
    struct iovec all[MAX_PARTS + 2];
    struct header header = { MAGIC, op, now(), inode, offset, name ? strlen(name) : 0, length };
    if (count > MAX_PARTS || length > UINT32_MAX) abort();
    all[0] = (struct iovec){ &header, sizeof header };
    all[1] = (struct iovec){ (void *)name, header.name_length };
    int used = 2;
    size_t left = length;
    for (int i = 0; i < count && left > 0; i++) {
        size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
        all[used++] = (struct iovec){ parts[i].iov_base, size };
        left -= size;
    }
    ssize_t expected = sizeof header + header.name_length + length;
    /* A run whose log is incomplete proves nothing. */
    if (syscall(SYS_writev, log_fd, all, used) != expected) abort();
    errno = saved;
}

/* Whether the fault "disk full" refuses to let the file grow to `size`. */
static int refused(int fd, uint64_t size) {
    unsigned char bytes[2];
    struct stat status;
    control(bytes);
    if (!(bytes[0] & FULL) || fstat(fd, &status) != 0 || size <= (uint64_t)status.st_size) return 0;
    errno = ENOSPC;
    return 1;
}

/* All ways to write come here; `offset` is -1 for the file's own position. */
static ssize_t write_parts(int fd, const struct iovec *parts, int count, off64_t offset) {
    if (!watched(fd))
        return offset < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, offset, 0);
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    pthread_mutex_lock(&mutex);
    int flags = fcntl(fd, F_GETFL);
    uint64_t at = offset;
    if (flags >= 0 && (flags & O_APPEND)) {
        struct stat status;
        at = fstat(fd, &status) == 0 ? (uint64_t)status.st_size : 0;
    } else if (offset < 0) {
        at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    ssize_t result = -1;
    if (!refused(fd, at + total)) {
        result = offset < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, offset, 0);
        if (result > 0) record(WRITE, look_up(fd), at, NULL, parts, count, result);
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

/* write and pwrite stay themselves for other files: on sockets and pipes writev is not always the same. */
ssize_t write(int fd, const void *data, size_t length) {
    if (!watched(fd)) return syscall(SYS_write, fd, data, length);
    struct iovec part = { (void *)data, length };
    return write_parts(fd, &part, 1, -1);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    if (!watched(fd)) return syscall(SYS_pwrite64, fd, data, length, offset);
    struct iovec part = { (void *)data, length };
    return write_parts(fd, &part, 1, offset);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_parts(fd, parts, count, -1); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return write_parts(fd, parts, count, offset); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return write_parts(fd, parts, count, offset); }

/* Copies inside the kernel would pass unseen; the caller then copies with read and write. */
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
    if (watched(out)) { errno = EOPNOTSUPP; return -1; }
    return syscall(SYS_copy_file_range, in, from, out, to, length, flags);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t length) {
    if (watched(out)) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, out, in, offset, length);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t length) { return sendfile64(out, in, offset, length); }

int ftruncate64(int fd, off64_t length) {
    if (!watched(fd)) return syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&mutex);
    int result = refused(fd, length) ? -1 : (int)syscall(SYS_ftruncate, fd, length);
    if (result == 0) record(TRUNCATE, look_up(fd), length, NULL, NULL, 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* Only plain extension is modelled; holes and collapsed ranges are refused as a simpler file system would. */
int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    if (!watched(fd)) return syscall(SYS_fallocate, fd, mode, offset, length);
    if (mode != 0) { errno = EOPNOTSUPP; return -1; }
    pthread_mutex_lock(&mutex);
    struct stat status;
    int result = refused(fd, offset + length) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (result == 0 && fstat(fd, &status) == 0) record(TRUNCATE, look_up(fd), status.st_size, NULL, NULL, 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return fallocate64(fd, 0, offset, length) == 0 ? 0 : errno; }
int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    const char *name = flags & (O_CREAT | O_TRUNC) ? name_of(dir, path, full) : NULL;
    if (!name) {
        int fd = syscall(SYS_openat, dir, path, flags, mode);
        forget(fd);
        return fd;
    }
    pthread_mutex_lock(&mutex);
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    forget(fd);
    struct stat status;
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        record(CREATE, status.st_ino, 0, name, NULL, 0, 0);
        if (flags & O_TRUNC) record(TRUNCATE, status.st_ino, 0, NULL, NULL, 0, 0);
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}
#define MODE_ARGUMENT(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { MODE_ARGUMENT(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_ARGUMENT(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE_ARGUMENT(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE_ARGUMENT(flags) return open_at(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    if (log_fd >= 0 && (fd == log_fd || fd == control_fd)) return 0; /* a program that closes everything keeps its log */
    forget(fd);
    return syscall(SYS_close, fd);
}
int dup3(int old, int new, int flags) { forget(new); return syscall(SYS_dup3, old, new, flags); }
int dup2(int old, int new) {
    if (old == new) return fcntl(old, F_GETFD) < 0 ? -1 : new;
    return dup3(old, new, 0);
}

int unlinkat(int dir, const char *path, int flags) {
    char full[PATH_MAX];
    const char *name = flags & AT_REMOVEDIR ? NULL : name_of(dir, path, full);
    if (!name) return syscall(SYS_unlinkat, dir, path, flags);
    pthread_mutex_lock(&mutex);
    int result = syscall(SYS_unlinkat, dir, path, flags);
    if (result == 0) record(UNLINK, 0, 0, name, NULL, 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int renameat2(int old_dir, const char *old, int new_dir, const char *new, unsigned flags) {
    char old_full[PATH_MAX], new_full[PATH_MAX];
    const char *from = name_of(old_dir, old, old_full), *to = name_of(new_dir, new, new_full);
    if (!from && !to) return syscall(SYS_renameat2, old_dir, old, new_dir, new, flags);
    pthread_mutex_lock(&mutex);
    int result = syscall(SYS_renameat2, old_dir, old, new_dir, new, flags);
    struct iovec target = { (void *)(to ? to : ""), to ? strlen(to) : 0 };
    if (result == 0) record(RENAME, 0, 0, from ? from : "", &target, 1, target.iov_len);
    pthread_mutex_unlock(&mutex);
    return result;
}
int renameat(int old_dir, const char *old, int new_dir, const char *new) { return renameat2(old_dir, old, new_dir, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

static int sync_fd(int fd, long call) {
    uint64_t inode = look_up(fd);
    if (inode == ELSEWHERE) return syscall(call, fd);
    unsigned char bytes[2];
    control(bytes);
    if (bytes[0] & SYNC_IGNORED) return 0;
    char full[PATH_MAX];
    const char *name = NULL;
    if (inode == FOLDER) { name = name_of_fd(fd, full); inode = 0; }
    uint64_t number = (uint64_t)getpid() << 32 | ++syncs;
    pthread_mutex_lock(&mutex);
    record(SYNC_BEGIN, inode, number, name, NULL, 0, 0);
    pthread_mutex_unlock(&mutex);
    if (bytes[1]) nanosleep(&(struct timespec){ 0, bytes[1] * 1000000L }, NULL);
    int result = syscall(call, fd);
    if (bytes[0] & SYNC_FAILS) { result = -1; errno = EIO; }
    pthread_mutex_lock(&mutex);
    record(result == 0 ? SYNC_END : SYNC_FAILED, inode, number, name, NULL, 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}
int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }
