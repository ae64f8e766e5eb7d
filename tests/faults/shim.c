/* Preloaded into the daemon, for faults that strace can't make: calls that do what they do and then report an error,
 * and memory that the interpreter asks for. Also makes the wall clock jump. Whoever tests writes `struct control`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum call { CLOSE, MMAP, MUNMAP, SEND, SHUTDOWN, CALLS };

static volatile struct control {
    int call, error, when, lasting;
    int counts[CALLS];
    long long clock_offset_seconds;
} none, *control = &none;

__attribute__((constructor)) static void prepare(void) {
    const char *path = getenv("SYSMEM_FAULTS_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        abort();
    control = (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
}

/* Whether this call fails; errno is set then. */
static int fails(enum call call) {
    int number = __atomic_add_fetch(&control->counts[call], 1, __ATOMIC_SEQ_CST);
    if (!control->error || control->call != (int)call)
        return 0;
    if (control->lasting ? number < control->when : number != control->when)
        return 0;
    errno = control->error;
    return 1;
}

/* Whether the close of a descriptor can report an error: only a file system's can, never that of a socket, a pipe, a
 * memfd, an anonymous inode or a file in /proc. */
static int may_fail(int fd) {
    struct stat status;
    struct statfs system;
    return !fstat(fd, &status) && status.st_nlink && (S_ISREG(status.st_mode) || S_ISCHR(status.st_mode)) &&
           !fstatfs(fd, &system) && system.f_type != PROC_SUPER_MAGIC;
}

int close(int fd) {
    int counts = may_fail(fd), result = syscall(SYS_close, fd);
    return counts && fails(CLOSE) ? -1 : result;
}

/* A single byte is what wakes the interpreter's loop. */
ssize_t send(int fd, const void *data, size_t length, int flags) {
    if (length > 1 && fails(SEND))
        return -1;
    return syscall(SYS_sendto, fd, data, length, flags, NULL, 0);
}

int shutdown(int fd, int how) {
    int result = syscall(SYS_shutdown, fd, how);
    return fails(SHUTDOWN) ? -1 : result;
}

int munmap(void *address, size_t length) {
    int result = syscall(SYS_munmap, address, length);
    return fails(MUNMAP) ? -1 : result;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fails(MMAP))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += control->clock_offset_seconds;
    return result;
}
